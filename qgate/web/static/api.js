// Requests to the server, and the outbox that loses no answer: each one waits in the browser's own storage until the
// server has said that it is kept. Knows nothing of the page.

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

export const get = async (path) => (await request(path)).json();

export const post = async (path, body) =>
  (await request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })).json();

export const picture = async (item) => createImageBitmap(await (await request(`/image/${item}`)).blob());

// As `post`, again and again while the server is away.
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

export class Outbox {
  // faces: digest of the faces that the ids belong to; answers to other faces are let lie.
  // onChange(waiting, error): after every change; onKept(answer, reply): once the server has it.
  constructor(faces, onChange, onKept) {
    this.faces = faces;
    this.prefix = `qgate.outbox.${faces}.`;
    this.onChange = onChange;
    this.onKept = onKept;
    this.waiting = this.#stored();
    this.sending = null;
  }

  get items() {
    return this.waiting.map((answer) => answer.item);
  }

  push(answer) {
    const stamped = { ...answer, faces: this.faces, key: newKey() };
    this.waiting.push(stamped);
    this.#remember(stamped);
    this.onChange(this.waiting.length, null);
    this.flush().catch((error) => this.onChange(this.waiting.length, error));
  }

  // Resolves when nothing waits any more.
  flush() {
    this.sending ??= this.#send().finally(() => (this.sending = null));
    return this.sending;
  }

  async #send() {
    while (this.waiting.length) {
      const answer = this.waiting[0];
      let reply = null;
      let problem = null;
      try {
        const { time, ...body } = answer;
        reply = await postUntilKept("/api/answer", body, (error) => this.onChange(this.waiting.length, error));
      } catch (error) {
        if (error.status === 401 || error.status === 409) throw error;
        problem = error;
      }
      this.waiting.shift();
      this.#forget(answer);
      this.onChange(this.waiting.length, problem);
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
      return keys.map((key) => JSON.parse(localStorage.getItem(key))).sort((a, b) => a.time - b.time);
    } catch {
      return [];
    }
  }
}
