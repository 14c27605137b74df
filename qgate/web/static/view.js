// The face on its canvas: zoom, flip, boxes and brush strokes. Knows nothing of decisions or of the server.

const BRUSH = 0.02; // radius, as a fraction of the image's width
const STEP = 0.004; // between two points of a stroke
const SMALLEST = 0.006; // a drag shorter than this is a click

export class View {
  // onMark(mark): a mark was drawn; hue(region): its colour.
  constructor(face, marks, onMark, hue) {
    this.face = face;
    this.over = marks;
    this.onMark = onMark;
    this.hue = hue;
    this.bitmap = null;
    this.marks = [];
    this.zoom = "fit";
    this.flip = false;
    this.brush = false;
    this.pointer = null;
    this.drag = null;
    new ResizeObserver(() => this.#resize()).observe(face);
    marks.addEventListener("pointermove", (event) => this.#move(event));
    marks.addEventListener("pointerdown", (event) => this.#press(event));
    marks.addEventListener("pointerup", (event) => this.#release(event));
    marks.addEventListener("pointercancel", () => this.#cancel());
    this.#resize();
  }

  show(bitmap, marks) {
    this.bitmap?.close();
    this.bitmap = bitmap;
    this.marks = marks;
    this.drag = null;
    this.draw();
  }

  setZoom(zoom) {
    this.zoom = this.zoom === zoom ? "fit" : zoom;
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
    this.draw();
  }

  // Screen pixels per image pixel, and where the image's corner lies; before mirroring.
  #place() {
    const { width, height } = this.face;
    const fit = Math.min(width / this.bitmap.width, height / this.bitmap.height);
    const corner = [(width - fit * this.bitmap.width) / 2, (height - fit * this.bitmap.height) / 2];
    const scale = { fit, one: 1, four: 4 }[this.zoom];
    if (this.zoom === "fit") return { scale, corner };
    // The point of the whole face that is under the pointer stays under it.
    const hold = this.drag?.at ?? this.pointer ?? [width / 2, height / 2];
    const point = hold.map((value, axis) => (value - corner[axis]) / fit);
    return { scale, corner: hold.map((value, axis) => value - scale * point[axis]) };
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
    for (const mark of drawn) this.#drawMark(context, mark);
  }

  #drawMark(context, mark) {
    const { width, height } = this.bitmap;
    const scale = this.#transform(context);
    const points = mark.points.map(([x, y]) => [x * width, y * height]);
    context.strokeStyle = `hsl(${this.hue(mark.region)} 70% 68%)`;
    context.lineCap = context.lineJoin = "round";
    const [left, top] = [0, 1].map((axis) => Math.min(...points.map((point) => point[axis])));
    if (mark.radius) {
      context.globalAlpha = 0.45;
      context.lineWidth = 2 * mark.radius * width;
      context.beginPath();
      context.moveTo(points[0][0], points[0][1]);
      points.forEach(([x, y]) => context.lineTo(x, y));
      context.stroke();
      context.globalAlpha = 1;
    } else {
      const [right, bottom] = [0, 1].map((axis) => Math.max(...points.map((point) => point[axis])));
      context.lineWidth = (2 * this.ratio) / scale;
      context.strokeRect(left, top, right - left, bottom - top);
    }
    this.#caption(context, mark, left, top);
  }

  #caption(context, mark, left, top) {
    const matrix = context.getTransform();
    const [x, y] = [matrix.a * left + matrix.e, matrix.d * top + matrix.f];
    const text = mark.region || "which region?";
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
    return at.map((value, axis) => Math.min(Math.max((value - corner[axis]) / scale / size[axis], 0), 1));
  }

  #press(event) {
    if (!this.bitmap || event.button !== 0 || this.drag) return;
    this.over.setPointerCapture(event.pointerId);
    this.pointer = this.#at(event);
    this.drag = { id: event.pointerId, at: this.pointer, mark: null };
    this.drag.start = this.#fraction(this.pointer);
  }

  #move(event) {
    if (this.drag && event.pointerId !== this.drag.id) return;
    const at = this.#at(event);
    if (!this.drag) {
      this.pointer = at;
      if (this.zoom !== "fit") this.draw();
      return;
    }
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
    if (!this.drag || event.pointerId !== this.drag.id) return;
    const { mark } = this.drag;
    this.drag = null;
    if (mark) this.onMark(mark);
    this.draw();
  }

  #cancel() {
    this.drag = null;
    this.draw();
  }
}
