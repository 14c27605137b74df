// The next faces, with their pictures decoded before they are needed. Knows nothing of the page or of answers.

import { pause, picture, post } from "./api.js";

const AHEAD = 8;
const AT_ONCE = 3;
const HAVE = 100;
const RETRY_MS = 700;

export class Feed {
  // held(): ids that the server must not hand out again; onError(error): the server could not be asked.
  constructor(held, onError) {
    this.held = held;
    this.onError = onError;
    this.annotator = "";
    this.order = "";
    this.ahead = [];
    this.broken = [];
    this.out = null; // the face that was handed out last: its receiver may not hold it yet
    this.round = 0;
    this.loading = 0;
    this.filling = null;
    this.failed = null;
  }

  // Start anew with an annotator and an order.
  restart(annotator, order) {
    this.annotator = annotator;
    this.order = order;
    this.ahead.forEach((face) => face.bitmap?.close());
    this.ahead = [];
    this.out = null;
    this.round += 1;
    this.filling = null;
  }

  // The next face, decoded; null where none is left. Waits only where the pictures could not keep up.
  async next() {
    const ready = this.takeReady();
    if (ready) return ready;
    for (;;) {
      if (!this.ahead.length) await this.fill();
      if (!this.ahead.length && this.failed?.worthRetrying) {
        await pause(RETRY_MS);
        continue;
      }
      if (!this.ahead.length && this.failed) throw this.failed;
      if (!this.ahead.length) return null;
      const face = this.ahead[0];
      await face.loaded;
      // Another order was chosen meanwhile.
      if (this.ahead[0] !== face) continue;
      this.ahead.shift();
      if (face.bitmap) {
        this.out = face.item;
        this.fill();
        return face;
      }
    }
  }

  // The next face if it is decoded already, else null.
  takeReady() {
    if (!this.ahead[0]?.bitmap) return null;
    const face = this.ahead.shift();
    this.out = face.item;
    queueMicrotask(() => this.fill());
    return face;
  }

  // A face to be shown at once, as after an undo.
  async load(face) {
    face.bitmap = await picture(face.item);
    return face;
  }

  putBack(face) {
    this.ahead.unshift({ ...face, loaded: Promise.resolve() });
  }

  drop(item) {
    this.ahead = this.ahead.filter((face) => face.item !== item);
  }

  fill() {
    if (this.ahead.length > AHEAD / 2) return Promise.resolve();
    if (!this.filling) {
      const asking = this.#ask().finally(() => {
        if (this.filling === asking) this.filling = null;
      });
      this.filling = asking;
    }
    return this.filling;
  }

  async #ask() {
    const round = this.round;
    const have = [...this.#known()].slice(0, HAVE);
    const body = { annotator: this.annotator, order: this.order, count: AHEAD, have };
    let faces = [];
    this.failed = null;
    try {
      faces = await post("/api/queue", body);
    } catch (error) {
      this.failed = error;
      this.onError(error);
    }
    if (round !== this.round) return;
    // An undo meanwhile may have freed a face that the page holds.
    const known = this.#known();
    for (const face of faces.filter((found) => !known.has(found.item))) {
      face.loaded = new Promise((done) => (face.done = done));
      this.ahead.push(face);
    }
    this.#decode();
  }

  #known() {
    const out = this.out === null ? [] : [this.out];
    return new Set([...this.ahead.map((face) => face.item), ...out, ...this.held(), ...this.broken]);
  }

  // Few at once and in their order, so that the face that is needed first comes first.
  #decode() {
    for (const face of this.ahead) {
      if (this.loading >= AT_ONCE) return;
      if (face.bitmap || face.asked) continue;
      face.asked = true;
      this.loading += 1;
      this.load(face)
        .catch((error) => {
          if (error.status) this.broken.push(face.item);
          this.onError(error);
        })
        .finally(() => {
          this.loading -= 1;
          face.done?.();
          this.#decode();
        });
    }
  }
}
