// The words around the face: regions, votes, progress, pace, dialogs. All text goes in as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export const DIGITS = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "-", "="];
export const ORDER_NAMES = {
  uncertain: "Uncertain first",
  random: "Random sample",
  diverse: "Diverse",
  suspect: "Suspected errors",
  review: "Disagreements",
  audit: "Audit",
};
const SEVERITIES = ["no defect", "minor", "noticeable", "severe"];

export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

export const percent = (value, digits = 0) => (value === null ? "–" : `${(100 * value).toFixed(digits)} %`);

export const hue = (regions, region) => (region ? (regions.indexOf(region) * 360) / regions.length : 210);

export function buildRegions(regions, onToggle) {
  byId("regions").replaceChildren(
    ...regions.map((region, index) => {
      const button = element("button");
      button.dataset.region = region;
      button.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-keyshortcuts", DIGITS[index]);
      const dot = element("i");
      button.style.setProperty("--hue", `hsl(${hue(regions, region)} 70% 68%)`);
      button.append(element("kbd", DIGITS[index]), element("span", region), dot);
      button.addEventListener("click", () => onToggle(region));
      return button;
    }),
  );
}

export function showRegions(chosen) {
  for (const button of byId("regions").children) {
    button.setAttribute("aria-pressed", String(chosen.has(button.dataset.region)));
  }
}

export function showVotes(votes) {
  byId("votes").hidden = !votes.length;
  byId("votes")
    .querySelector("ul")
    .replaceChildren(
      ...votes.map((vote) => {
        const said = vote.severity === null ? vote.decision : `${vote.decision}, ${SEVERITIES[vote.severity]}`;
        const where = vote.regions.length ? `: ${vote.regions.join(", ")}` : "";
        const line = element("li", "", vote.decision);
        line.append(element("strong", vote.annotator), element("div", said + where));
        return line;
      }),
    );
}

export function showGate(reply) {
  byId("gate-now").hidden = !reply;
  if (reply) {
    const lines = Object.entries(reply.regions ?? {}).map(([region, prob]) => `${region} ${percent(prob)}`);
    const sure = reply.clean_prob === null ? "has not scored this face" : `clean with ${percent(reply.clean_prob)}`;
    byId("gate-now").textContent = [sure, ...lines].join("\n");
  }
  showGatePanel();
}

export function showLast(text) {
  byId("gate-last").textContent = text;
  byId("gate-last").hidden = !text;
  showGatePanel();
}

function showScoringFault(text) {
  byId("gate-fault").textContent = text && `The gate stopped scoring: ${text}. Faces come without its help.`;
  byId("gate-fault").hidden = !text;
  showGatePanel();
}

function showGatePanel() {
  byId("gate").hidden = ["gate-now", "gate-last", "gate-fault"].every((id) => byId(id).hidden);
}

export function showState(state) {
  showScoringFault(state.scoring_fault);
  const bar = byId("bar");
  bar.setAttribute("aria-valuemax", state.total);
  bar.setAttribute("aria-valuenow", state.done);
  bar.firstElementChild.style.width = percent(state.total ? state.done / state.total : 0, 2).replace(" ", "");
  byId("counts").textContent = `${state.done} of ${state.total}`;
  byId("training").textContent = `${state.training.labelled} labelled, ${state.training.words}`;
  byId("why").textContent = state.training.why;
}

// What is said of answers that the server does not have; "" where there is nothing to say.
export function savedWords(waiting, refused, reason, error) {
  const lines = [];
  const words = waiting === 1 ? "1 answer waits here and is" : `${waiting} answers wait here and are`;
  if (error) lines.push(waiting ? `${error.message}; ${words} sent again` : error.message);
  // One or two answers on their way are no news.
  else if (waiting > 2) lines.push(`${waiting} waiting to be saved`);
  if (refused) lines.push(`${refused} refused (${reason}): kept in this browser, and sent again when the page is reloaded`);
  return lines.join("\n");
}

export function auditWords(audit) {
  const range = (rate) => `${percent(rate.low, 1)} to ${percent(rate.high, 1)}`;
  const lines = [
    audit.value === null ? "Nobody could decide a face." : `Escape rate ${percent(audit.value, 1)}`,
    `${percent(audit.confidence)} interval ${range(audit.decided)}: ${audit.decided.hits} of ${audit.decided.total} are artifacts`,
  ];
  if (audit.unsure) lines.push(`${audit.unsure} unsure; counted as artifacts: ${range(audit.cautious)}`);
  return lines.join("\n");
}

const BREAK_MS = 60000; // a longer look than this was a break

export function showPace(times, state) {
  const recent = times.slice(-20);
  const lines = [];
  if (recent.length > 2) {
    const active = recent.slice(1).reduce((sum, time, index) => sum + Math.min(time - recent[index], BREAK_MS), 0);
    const perMinute = ((recent.length - 1) * 60000) / Math.max(active, 1);
    const left = Math.ceil((state.total - state.done) / perMinute);
    lines.push(`${perMinute.toFixed(0)} faces a minute${left ? `, ${left} min left` : ""}`);
  }
  lines.push(`${state.today} today, ${state.yours} in all`);
  byId("pace").replaceChildren(...lines.map((line) => element("div", line)));
}

export function flash(text, kind) {
  const shown = byId("flash");
  shown.textContent = text;
  shown.className = kind;
  // Read a size, so that the animation starts anew.
  void shown.offsetWidth;
  shown.classList.add("on");
}

function estimate(found, form = (value) => value.toFixed(3)) {
  if (found.value === null) return "not defined yet";
  const interval = found.low === null ? "too few faces for an interval" : `${form(found.low)} to ${form(found.high)}`;
  return `${form(found.value)} (${interval})`;
}

const counted = (rate) => `${rate.hits} of ${rate.total} (${percent(rate.low)} to ${percent(rate.high)})`;

export function showAgreement(found) {
  const rows = [
    ["Faces with two votes or more", String(found.percent.units)],
    ["Equal pairs of votes", estimate(found.percent, percent)],
    ["Krippendorff alpha, artifact", estimate(found.alpha)],
    ["Krippendorff alpha, severity", estimate(found.severity_alpha)],
    ...found.pairs.flatMap((pair) => [
      [`${pair.first} and ${pair.second}: equal`, counted(pair.percent)],
      [`${pair.first} and ${pair.second}: Cohen kappa`, estimate(pair.kappa)],
    ]),
    ...Object.entries(found.gold).map(([name, rate]) => [`${name}: gold faces right`, counted(rate)]),
    ...Object.entries(found.consistency).map(([name, rate]) => [`${name}: same again`, counted(rate)]),
  ];
  byId("numbers")
    .querySelector("tbody")
    .replaceChildren(
      ...rows.map(([name, value]) => {
        const row = element("tr");
        const head = element("th", name);
        head.scope = "row";
        row.append(head, element("td", value));
        return row;
      }),
    );
  byId("numbers").showModal();
}
