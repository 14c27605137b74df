// Requests to the server, and the outbox that loses no answer: each one stays in the browser's own storage until the
// server has said that it is kept, also where the server refuses it. Knows nothing of the page.

const RETRY_MS = [300, 1000, 2000, 4000];

export const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// `status` 0: the server was not reached.
export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
  get worthRetrying() {
    return this.status === 0 || this.status === 408 || this.status >= 500;
  }
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, cache: "no-store" });
  } catch {
    throw new RequestError(0, "the server does not answer");
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new RequestError(response.status, body.error ?? `error ${response.status}`);
  }
  return response;
}

async function whole(reading) {
  try {
    return await reading;
  } catch {
    throw new RequestError(0, "the server's reply broke off");
  }
}

export const get = async (path) => whole((await request(path)).json());

export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return whole((await request(path, { method: "POST", headers, body: JSON.stringify(body) })).json());
}

export const picture = async (item) => createImageBitmap(await whole((await request(`/image/${item}`)).blob()));

// As `post`, again and again while the server is away or cannot write.
export async function postUntilKept(path, body, onFailure = () => {}) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await post(path, body);
    } catch (error) {
      if (!error.worthRetrying) throw error;
      onFailure(error);
      await pause(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]);
    }
  }
}

// What is stored under one key; null where another tab has sent it meanwhile, or it is no answer.
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export class Outbox {
  // faces: digest of the faces that the ids belong to; answers to other faces are let lie.
  // onChange(error): after every change and every failure; onKept(answer, reply): once the server has it.
  constructor(faces, onChange, onKept) {
    this.faces = faces;
    this.prefix = `qgate.outbox.${faces}.`;
    this.onChange = onChange;
    this.onKept = onKept;
    this.waiting = this.#stored();
    this.refused = []; // the server says that they break a rule: they stay stored, and are sent again by the next page
    this.reason = ""; // why the last one was refused
    this.sending = null;
  }

  get items() {
    return [...this.waiting, ...this.refused].map((answer) => answer.item);
  }

  push(answer) {
    const stamped = { ...answer, faces: this.faces, key: newKey() };
    this.waiting.push(stamped);
    this.#remember(stamped);
    this.onChange(null);
    this.flush().catch((error) => this.onChange(error));
  }

  // Resolves when nothing waits any more. Rejects where the page must be opened anew; then everything waits for that.
  flush() {
    this.sending ??= this.#send().finally(() => (this.sending = null));
    return this.sending;
  }

  async #send() {
    while (this.waiting.length) {
      const answer = this.waiting[0];
      let reply = null;
      try {
        const { time, ...body } = answer;
        reply = await postUntilKept("/api/answer", body, this.onChange);
      } catch (error) {
        if (error.status === 401 || error.status === 409) throw error;
        this.refused.push(answer);
        this.reason = error.message;
      }
      this.waiting.shift();
      if (reply) this.#forget(answer);
      this.onChange(null);
      if (reply) this.onKept(answer, reply);
    }
  }

  #remember(answer) {
    try {
      localStorage.setItem(this.prefix + answer.key, JSON.stringify({ ...answer, time: performance.timeOrigin + performance.now() }));
    } catch {
      // Storage is full or forbidden: the answer still waits in this tab.
    }
  }

  #forget(answer) {
    try {
      localStorage.removeItem(this.prefix + answer.key);
    } catch {
      // As above.
    }
  }

  #stored() {
    try {
      const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
      const found = keys.map((key) => parsed(localStorage.getItem(key))).filter((answer) => answer);
      return found.sort((a, b) => a.time - b.time);
    } catch {
      return [];
    }
  }
}
