// The face on its canvas: zoom, flip, boxes and brush strokes, by mouse, pen and touch. Knows nothing of decisions or of
// the server. A mouse that moves leads the zoomed view; by touch one finger draws and two fingers move and zoom.

const BRUSH = 0.02; // radius, as a fraction of the image's width
const STEP = 0.004; // between two points of a stroke
const SMALLEST = 0.006; // a drag shorter than this is a click
const DOUBLE_MS = 350; // two clicks or taps within this time are one double
const LARGEST = 8; // screen pixels per image pixel
const MOST_MARKS = 100; // as many as the server takes for one face
const MOST_POINTS = 3000; // in all marks of a face: with the last stroke they still fit into one request
const STEPS = 10000; // a point lies on one of so many steps across the image

export class View {
  // onMark(mark): a mark was drawn; onFull(): it is one too many and is left out; onZoom(): the zoom was changed by the pointer; hue(region): its colour.
  constructor(face, marks, { onMark, onFull, onZoom, hue }) {
    this.face = face;
    this.over = marks;
    this.onMark = onMark;
    this.onFull = onFull;
    this.onZoom = onZoom;
    this.hue = hue;
    this.bitmap = null;
    this.marks = [];
    this.ghosts = []; // marks of others, only to be seen
    this.zoom = "fit"; // or "one", "four"; "free" after two fingers
    this.camera = null; // where the image lies while it is zoomed: scale and corner
    this.flip = false;
    this.brush = false;
    this.pointer = null;
    this.fingers = new Map();
    this.drag = null;
    this.pinch = null;
    this.tapped = { time: -Infinity, at: [0, 0] };
    new ResizeObserver(() => this.#resize()).observe(face);
    marks.addEventListener("pointermove", (event) => this.#move(event));
    marks.addEventListener("pointerdown", (event) => this.#press(event));
    marks.addEventListener("pointerup", (event) => this.#release(event));
    marks.addEventListener("pointercancel", (event) => this.#cancel(event));
    this.#resize();
  }

  show(bitmap, marks, ghosts = []) {
    this.bitmap?.close();
    this.bitmap = bitmap;
    this.marks = marks;
    this.ghosts = ghosts;
    this.drag = this.pinch = null;
    if (this.zoom === "free") {
      this.zoom = "fit";
      this.onZoom();
    }
    this.#aim();
    this.draw();
  }

  // The same zoom again: the whole face.
  setZoom(zoom) {
    this.zoom = this.zoom === zoom ? "fit" : zoom;
    this.#aim();
    this.draw();
  }

  draw() {
    this.#drawFace();
    this.#drawMarks();
  }

  #resize() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.face;
    for (const canvas of [this.face, this.over]) {
      canvas.width = Math.max(1, Math.round(clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    }
    this.ratio = ratio;
    if (this.zoom === "free") this.zoom = "fit";
    this.#aim();
    this.draw();
  }

  // Screen pixels per image pixel, and where the image's corner lies; before mirroring.
  #place() {
    return this.camera ?? this.#whole();
  }

  #whole() {
    const { width, height } = this.face;
    const scale = Math.min(width / this.bitmap.width, height / this.bitmap.height);
    return { scale, corner: [(width - scale * this.bitmap.width) / 2, (height - scale * this.bitmap.height) / 2] };
  }

  // The point of the whole face that is under the pointer stays under it.
  #aim() {
    this.camera = null;
    const scale = { one: 1, four: 4 }[this.zoom];
    if (!scale || !this.bitmap) return;
    const whole = this.#whole();
    const hold = this.pointer ?? [this.face.width / 2, this.face.height / 2];
    const corner = hold.map((value, axis) => value - (scale * (value - whole.corner[axis])) / whole.scale);
    this.camera = { scale, corner };
  }

  #transform(context) {
    const { scale, corner } = this.#place();
    const sign = this.flip ? -1 : 1;
    context.setTransform(sign * scale, 0, 0, scale, this.flip ? this.face.width - corner[0] : corner[0], corner[1]);
    return scale;
  }

  #drawFace() {
    const context = this.face.getContext("2d", { alpha: false });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#0b0d10";
    context.fillRect(0, 0, this.face.width, this.face.height);
    if (!this.bitmap) return;
    const scale = this.#transform(context);
    context.imageSmoothingEnabled = scale < 2;
    context.imageSmoothingQuality = "medium";
    context.drawImage(this.bitmap, 0, 0);
  }

  #drawMarks() {
    const context = this.over.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.over.width, this.over.height);
    if (!this.bitmap) return;
    const drawn = this.drag?.mark ? [...this.marks, this.drag.mark] : this.marks;
    for (const mark of [...this.ghosts, ...drawn]) this.#drawMark(context, mark);
  }

  #drawMark(context, mark) {
    const { width, height } = this.bitmap;
    const scale = this.#transform(context);
    const points = mark.points.map(([x, y]) => [x * width, y * height]);
    context.strokeStyle = `hsl(${this.hue(mark.region)} 70% 68%)`;
    context.lineCap = context.lineJoin = "round";
    const [left, top] = [0, 1].map((axis) => Math.min(...points.map((point) => point[axis])));
    if (mark.radius) {
      context.globalAlpha = mark.by ? 0.25 : 0.45;
      context.lineWidth = 2 * mark.radius * width;
      context.beginPath();
      context.moveTo(points[0][0], points[0][1]);
      points.forEach(([x, y]) => context.lineTo(x, y));
      context.stroke();
      context.globalAlpha = 1;
    } else {
      const [right, bottom] = [0, 1].map((axis) => Math.max(...points.map((point) => point[axis])));
      context.lineWidth = (2 * this.ratio) / scale;
      context.setLineDash(mark.by ? [3 * context.lineWidth, 2 * context.lineWidth] : []);
      context.strokeRect(left, top, right - left, bottom - top);
    }
    this.#caption(context, mark, left, top);
  }

  #caption(context, mark, left, top) {
    const matrix = context.getTransform();
    const [x, y] = [matrix.a * left + matrix.e, matrix.d * top + matrix.f];
    const text = mark.by ? `${mark.by}: ${mark.region || "no region"}` : mark.region || "which region?";
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.font = `600 ${12 * this.ratio}px system-ui, sans-serif`;
    const width = context.measureText(text).width + 10 * this.ratio;
    const start = this.flip ? x - width : x;
    const above = Math.max(y - 20 * this.ratio, 0);
    context.fillStyle = "#0c1116e0";
    context.fillRect(start, above, width, 18 * this.ratio);
    context.fillStyle = context.strokeStyle;
    context.fillText(text, start + 5 * this.ratio, above + 13 * this.ratio);
  }

  #at(event) {
    const box = this.over.getBoundingClientRect();
    const x = (event.clientX - box.left) * this.ratio;
    return [this.flip ? this.face.width - x : x, (event.clientY - box.top) * this.ratio];
  }

  // A point of the canvas as fractions of the image, kept inside it.
  #fraction(at) {
    const { scale, corner } = this.#place();
    const size = [this.bitmap.width, this.bitmap.height];
    const inside = at.map((value, axis) => Math.min(Math.max((value - corner[axis]) / scale / size[axis], 0), 1));
    return inside.map((value) => Math.round(value * STEPS) / STEPS);
  }

  #press(event) {
    if (!this.bitmap || event.button !== 0) return;
    this.over.setPointerCapture(event.pointerId);
    const at = this.#at(event);
    if (event.pointerType === "touch") this.fingers.set(event.pointerId, at);
    if (this.fingers.size === 2) return this.#startPinch();
    if (this.drag || this.pinch) return;
    this.pointer = at;
    this.drag = { id: event.pointerId, at, start: this.#fraction(at), mark: null };
  }

  #move(event) {
    const at = this.#at(event);
    if (this.fingers.has(event.pointerId)) this.fingers.set(event.pointerId, at);
    if (this.pinch) return this.#movePinch();
    if (this.drag) return event.pointerId === this.drag.id && this.#draw(at);
    this.pointer = at;
    if (this.zoom !== "one" && this.zoom !== "four") return;
    this.#aim();
    this.draw();
  }

  #draw(at) {
    const end = this.#fraction(at);
    const moved = Math.hypot(end[0] - this.drag.start[0], end[1] - this.drag.start[1]);
    if (!this.drag.mark && moved < SMALLEST) return;
    if (this.brush) {
      this.drag.mark ??= { region: "", points: [this.drag.start], radius: BRUSH };
      const last = this.drag.mark.points.at(-1);
      const far = Math.hypot(end[0] - last[0], end[1] - last[1]) > STEP;
      if (far && this.drag.mark.points.length < 500) this.drag.mark.points.push(end);
    } else {
      this.drag.mark = { region: "", points: [this.drag.start, end], radius: 0 };
    }
    this.#drawMarks();
  }

  #release(event) {
    this.fingers.delete(event.pointerId);
    if (this.pinch) return this.#endPinch();
    if (!this.drag || event.pointerId !== this.drag.id) return;
    const { mark, at } = this.drag;
    this.drag = null;
    if (mark && this.#isFull()) this.onFull();
    else if (mark) this.onMark(mark);
    else this.#tap(at, event.timeStamp);
    this.draw();
  }

  #isFull() {
    const points = this.marks.reduce((sum, mark) => sum + mark.points.length, 0);
    return this.marks.length >= MOST_MARKS || points >= MOST_POINTS;
  }

  // Twice at the same place: four times, or back to the whole face.
  #tap(at, time) {
    const near = Math.hypot(at[0] - this.tapped.at[0], at[1] - this.tapped.at[1]) < 30 * this.ratio;
    const double = near && time - this.tapped.time < DOUBLE_MS;
    this.tapped = { time: double ? -Infinity : time, at };
    if (!double) return;
    this.setZoom(this.zoom === "fit" ? "four" : this.zoom);
    this.onZoom();
  }

  #cancel(event) {
    this.fingers.delete(event.pointerId);
    if (this.pinch) return this.#endPinch();
    this.drag = null;
    this.draw();
  }

  #spread() {
    const [one, other] = [...this.fingers.values()];
    const middle = one.map((value, axis) => (value + other[axis]) / 2);
    return { middle, apart: Math.max(Math.hypot(one[0] - other[0], one[1] - other[1]), 1) };
  }

  #startPinch() {
    this.drag = null;
    this.pinch = { ...this.#spread(), from: this.#place() };
    this.draw();
  }

  // What was under the middle of the two fingers stays under it.
  #movePinch() {
    if (this.fingers.size !== 2) return;
    const { middle, apart } = this.#spread();
    const { from } = this.pinch;
    const scale = Math.min(Math.max((from.scale * apart) / this.pinch.apart, this.#whole().scale), LARGEST);
    const point = this.pinch.middle.map((value, axis) => (value - from.corner[axis]) / from.scale);
    this.camera = { scale, corner: middle.map((value, axis) => value - scale * point[axis]) };
    this.zoom = "free";
    this.draw();
  }

  #endPinch() {
    if (this.fingers.size) return;
    this.pinch = null;
    if (this.zoom === "free" && this.camera.scale < 1.05 * this.#whole().scale) this.zoom = "fit";
    if (this.zoom === "fit") this.camera = null;
    this.onZoom();
    this.draw();
  }
}
