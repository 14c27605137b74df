// The label page: one key, one decision. Ties the face, the feed, the outbox and the panel together.

import { Outbox, get, newKey, post, postUntilKept } from "./api.js";
import { Feed } from "./feed.js";
import {
  DIGITS, ORDER_NAMES, auditWords, buildRegions, byId, flash, hue, percent, savedWords, showAgreement, showGate, showLast,
  showPace, showRegions, showState, showVotes,
} from "./panel.js";
import { View } from "./view.js";

const DECISIONS = { a: "clean", s: "unsure", d: "artifact" };
const SEVERITY_KEYS = { q: 0, w: 1, e: 2, r: 3 };
const HOLD_MS = 300; // a zoom key held longer than this zooms only while it is held

let about, view, state = null;
let annotator = "", order = "";
let current = null; // the face on the screen, with what was said of it so far
let busy = false; // a face is being fetched: keys wait in `later`
let later = [];
const times = [];

let outbox;
const feed = new Feed(() => [...(current ? [current.item] : []), ...outbox.items], feedError);

async function start() {
  await openSession();
  about = await get("/api/about");
  byId("title").textContent = about.title;
  byId("command").textContent = about.train_command;
  outbox = new Outbox(about.digest, showSaved, kept);
  showSaved(null);
  buildRegions(about.regions, (region) => soon(() => toggleRegion(region)));
  view = new View(byId("face"), byId("marks"), {
    onMark: addMark,
    onFull: () => trouble("no more marks fit into one answer"),
    onZoom: showZoom,
    hue: (region) => hue(about.regions, region),
  });
  const chosen = localStorage.getItem("qgate.order");
  order = about.orders.includes(chosen) ? chosen : about.orders[0];
  byId("order").replaceChildren(...about.orders.map((name) => new Option(ORDER_NAMES[name], name, false, name === order)));
  byId("order").disabled = about.orders.length < 2;
  wire();
  outbox.flush().catch((error) => notice(error.message));
  const name = sessionStorage.getItem("qgate.annotator") || about.annotator || localStorage.getItem("qgate.annotator");
  if (name) begin(name);
  else askName();
}

async function openSession() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  await post("/api/session", { token });
  history.replaceState(null, "", location.pathname);
}

function begin(name) {
  annotator = name;
  sessionStorage.setItem("qgate.annotator", name);
  localStorage.setItem("qgate.annotator", name);
  byId("who").textContent = name;
  byId("who").setAttribute("aria-label", `Annotator ${name}: change`);
  times.length = 0;
  return restart();
}

function restart() {
  current = null;
  feed.restart(annotator, order);
  showLast("");
  refreshSoon();
  return advance(performance.now());
}

// Show the next face. `since`: when the key was pressed, for the measurement.
function advance(since) {
  const ready = feed.takeReady();
  if (ready) return show(ready, since);
  return meanwhile(async () => {
    notice("Loading …");
    const face = await feed.next();
    if (face) show(face, since);
    else rest();
  });
}

function show(face, since) {
  const answer = face.answer;
  current = {
    ...face,
    regions: new Set(answer?.regions),
    scoreSeen: Boolean(answer?.score_seen),
    fresh: null, // the mark that the next digit names
    shownAt: performance.now(),
  };
  const marks = (answer?.marks ?? []).map((mark) => ({ ...mark, points: mark.points.map((point) => [...point]) }));
  notice("");
  const ghosts = face.votes.flatMap((vote) => vote.marks.map((mark) => ({ ...mark, by: vote.annotator })));
  view.show(face.bitmap, marks, ghosts);
  byId("name").textContent = face.name;
  byId("face").setAttribute("aria-label", `Face to judge: ${face.name}`);
  showRegions(current.regions);
  showVotes(face.votes);
  showGate(null);
  press("score", false);
  document.body.dataset.item = face.item;
  document.body.dataset.purpose = face.purpose;
  afterPaint(() => performance.measure("key-to-paint", { start: since, end: performance.now() }));
}

// The frame that is requested now has been painted when the message arrives.
function afterPaint(done) {
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(null);
  });
}

function rest() {
  current = null;
  view.show(null, []);
  delete document.body.dataset.item;
  byId("name").textContent = "";
  showVotes([]);
  const more = about.orders.length > 1 ? "\nAnother order may have some: choose it above." : "";
  const done = { audit: "All faces of the sample are judged.", review: "No disagreement is left." };
  notice((done[order] ?? "All faces of this order are judged.") + more);
}

// Keys pressed while `work` brings a face are meant for that face; where it does not come they are for none.
async function meanwhile(work) {
  busy = true;
  try {
    await work();
  } catch (error) {
    notice(error.message);
    later = [];
  }
  busy = false;
  const waiting = later;
  later = [];
  waiting.forEach(soon); // one that brings a face itself makes the others wait again
}

function decide(decision, severity, since) {
  if (!current) return;
  const face = current;
  const seconds = (performance.now() - face.shownAt) / 1000;
  outbox.push({
    annotator,
    item: face.item,
    purpose: face.purpose,
    decision,
    severity,
    regions: about.regions.filter((region) => face.regions.has(region)),
    marks: view.marks,
    seconds: Math.round(seconds * 1000) / 1000,
    score_seen: face.scoreSeen,
  });
  times.push(performance.now());
  current = null;
  feed.drop(face.item);
  advance(since);
  flash(decision, decision);
  say(current ? `${decision}. Now ${current.name}` : decision);
}

// The score is told once it can no longer colour the answer; an audit stays blind to its end.
function kept(answer, reply) {
  const telling = reply.clean_prob !== null && !about.audit && answer.purpose !== "review";
  showLast(telling ? `last face: you ${answer.decision}, gate ${percent(reply.clean_prob)} clean` : "");
  refreshSoon();
}

const decideByName = (decision, since) => decide(decision, { clean: 0, artifact: 2, unsure: null }[decision], since);

const decideBySeverity = (severity, since) => decide(severity >= 2 ? "artifact" : "clean", severity, since);

function undo(since) {
  const key = newKey();
  return meanwhile(async () => {
    await outbox.flush();
    const face = await postUntilKept("/api/undo", { annotator, key }, showSaved);
    if (!face) {
      say("Nothing to undo");
      flash("nothing to undo", "undo");
      return;
    }
    showSaved(null);
    feed.drop(face.item);
    await feed.load(face);
    if (current?.bitmap) {
      const answer = { regions: [...current.regions], marks: view.marks, score_seen: current.scoreSeen };
      feed.putBack({ ...current, answer, bitmap: await createImageBitmap(current.bitmap) });
    }
    show(face, since);
    flash("undone", "undo");
    say(`Undone: ${face.name} was ${face.answer.decision}`);
    refreshSoon();
  });
}

function toggleRegion(region) {
  if (!current) return;
  const named = view.marks.find((mark) => mark === current.fresh) ?? view.marks.findLast((mark) => !mark.region);
  current.fresh = null;
  if (named) {
    named.region = region;
    current.regions.add(region);
  } else if (current.regions.delete(region)) {
    view.marks = view.marks.filter((mark) => mark.region !== region);
  } else {
    current.regions.add(region);
  }
  current.lastRegion = current.regions.has(region) ? region : "";
  showRegions(current.regions);
  view.draw();
}

// A mark takes the region that was named last, unless a digit follows.
function addMark(mark) {
  mark.region = current.lastRegion || "";
  current.fresh = mark;
  view.marks.push(mark);
}

const ACTS = {
  fit: () => zoom("fit"),
  one: () => zoom("one"),
  four: () => zoom("four"),
  flip: () => press("flip", (view.flip = !view.flip)) ?? view.draw(),
  brush: () => press("brush", (view.brush = !view.brush)),
  unmark: () => view.marks.pop() && view.draw(),
  score: () => attempt(async () => {
    if (!current) return;
    const face = current;
    face.scoreSeen = true;
    const reply = await post("/api/score", { item: face.item });
    if (face !== current) return;
    showGate(reply);
    press("score", true);
  }),
  undo: (since) => undo(since),
};
const ACT_KEYS = { x: "one", z: "four", f: "flip", b: "brush", c: "unmark", g: "score", backspace: "undo" };

function zoom(kind) {
  view.setZoom(kind);
  showZoom();
}

function showZoom() {
  for (const name of ["fit", "one", "four"]) press(name, view.zoom === name);
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    trouble(error.message);
  }
}

function trouble(text) {
  flash(text, "undo");
  say(text);
}

function press(act, on) {
  document.querySelector(`[data-act="${act}"]`).setAttribute("aria-pressed", String(on));
}

// Run an act now, or when the face that is on its way has come.
const soon = (act) => (busy ? later.push(act) : act());

function keyDown(event) {
  const typing = event.target.matches("input, select") || !byId("keys").checked;
  if (typing || document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  const since = event.timeStamp;
  const digit = DIGITS.indexOf(digitOf(event));
  let act = null;
  if (key === "?") act = () => byId("help").showModal();
  else if (key in DECISIONS) act = () => decideByName(DECISIONS[key], since);
  else if (key in SEVERITY_KEYS) act = () => decideBySeverity(SEVERITY_KEYS[key], since);
  else if (key in ACT_KEYS) act = () => ACTS[ACT_KEYS[key]](since);
  else if (digit >= 0) act = () => toggleRegion(about.regions[digit]);
  if (!act) return;
  event.preventDefault();
  if (event.repeat && key !== "backspace") return;
  if (key === "z" || key === "x") heldSince = event.timeStamp;
  soon(act);
}

// The digit that was meant, on keyboards too that write digits with Shift only.
function digitOf(event) {
  const isDigit = event.code.startsWith("Digit");
  return !DIGITS.slice(0, 10).includes(event.key) && isDigit && !event.shiftKey ? event.code.at(-1) : event.key;
}

let heldSince = 0;

function keyUp(event) {
  const key = event.key.toLowerCase();
  if ((key === "z" || key === "x") && view && view.zoom !== "fit" && event.timeStamp - heldSince > HOLD_MS) zoom("fit");
}

function wire() {
  document.addEventListener("keydown", keyDown);
  document.addEventListener("keyup", keyUp);
  for (const button of document.querySelectorAll("[data-decide]")) {
    button.addEventListener("click", (event) => soon(() => decideByName(button.dataset.decide, event.timeStamp)));
  }
  for (const button of document.querySelectorAll("[data-severity]")) {
    button.addEventListener("click", (event) => soon(() => decideBySeverity(Number(button.dataset.severity), event.timeStamp)));
  }
  for (const button of document.querySelectorAll("[data-act]")) {
    button.addEventListener("click", (event) => soon(() => ACTS[button.dataset.act](event.timeStamp)));
  }
  byId("order").addEventListener("change", (event) => {
    order = event.target.value;
    localStorage.setItem("qgate.order", order);
    byId("stage").focus();
    soon(restart);
  });
  byId("helper").addEventListener("click", () => byId("help").showModal());
  byId("who").addEventListener("click", askName);
  byId("agreement").addEventListener("click", () => attempt(async () => showAgreement(await get("/api/agreement"))));
  byId("keys").checked = localStorage.getItem("qgate.keys") !== "off";
  byId("keys").addEventListener("change", () => localStorage.setItem("qgate.keys", byId("keys").checked ? "on" : "off"));
  byId("login").addEventListener("close", () => {
    const name = byId("annotator").value.trim();
    if (name && byId("login").returnValue === "ok") soon(() => begin(name));
    else if (!annotator) askName();
  });
}

function askName() {
  byId("annotator").value = annotator;
  byId("login").returnValue = "";
  byId("login").showModal();
  byId("annotator").select();
}

let refreshing = 0;

function refreshSoon() {
  clearTimeout(refreshing);
  refreshing = setTimeout(async () => {
    if (!annotator) return;
    try {
      state = await post("/api/state", { annotator, order });
      showState(state);
      showPace(times, state);
      // Hidden until the end: a running rate would colour the judgements.
      if (!current && !busy && state.audit?.done) notice(`All faces of the sample are judged.\n\n${auditWords(state.audit)}`);
    } catch (error) {
      say(error.message);
    }
  }, 200);
}

// error: why the last request failed, null where it did not.
function showSaved(error) {
  const text = savedWords(outbox.waiting.length, outbox.refused.length, outbox.reason, error);
  byId("saved").textContent = text || "all saved";
  byId("saved").classList.toggle("waiting", Boolean(text));
  document.body.dataset.waiting = outbox.waiting.length;
}

function feedError(error) {
  say(error.message);
  if (error.status === 404) flash(error.message, "undo");
  if (!current) notice(error.worthRetrying ? `${error.message}\nTrying again …` : error.message);
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

function say(text) {
  byId("says").textContent = text;
}

start().catch((error) => notice(error.status === 401 ? "Open the address that qgate printed: it carries the token." : error.message));
