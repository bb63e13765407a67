// Axial, coronal and sagittal slices with a linked crosshair. Orientation as in docs/conventions.md: the array's x runs
// to the patient's left, y to the back, z to the head; anterior and head are at the top, the right side on the left.

const ISODOSES = page.isodoses; // percent of the prescription, colour
const WINDOWS = { soft: ["Soft tissue", -160, 240], bone: ["Bone", -500, 1500], lung: ["Lung", -1350, 150], all: ["All", -1000, 1000] };
const CLEAR_TO = page.clear_to; // of the difference's scale; it becomes opaque from zero up to there
const GAMMA_SHARES = [0.2, 0.8]; // of the difference's colours for gamma above 1: predicted colder, hotter
const WASH_FROM = 0.1; // of the prescription, as in the static pictures
const VIEWS = [
  { name: "Axial", axis: 0, h: 2, v: 1, flip: false, sides: ["R", "L", "A", "P"] },
  { name: "Coronal", axis: 1, h: 2, v: 0, flip: true, sides: ["R", "L", "H", "F"] },
  { name: "Sagittal", axis: 2, h: 1, v: 0, flip: true, sides: ["A", "P", "H", "F"] },
];
const AXIS_NAMES = ["z", "y", "x"];

async function loadVolume(position, header) {
  const buffer = await unpacked(`volume-${position}`);
  const n = header.shape[0] * header.shape[1] * header.shape[2];
  const bytes = Math.ceil(n / 8);
  const ofDoses = 2 * n * page.doses.length;
  const nMasks = header.rois.length + (header.gamma ? 1 : 0);
  if (buffer.byteLength !== ofDoses + n + bytes * nMasks) throw new Error("The pictures of this case are damaged.");
  const volume = {
    ...header, n,
    steps: [header.shape[1] * header.shape[2], header.shape[2], 1],
    ct: new Uint8Array(buffer, ofDoses, n),
    masks: header.rois.map((_, k) => new Uint8Array(buffer, ofDoses + n + k * bytes, bytes)),
    failed: header.gamma ? new Uint8Array(buffer, ofDoses + n + header.rois.length * bytes, bytes) : null, // gamma above 1
  };
  page.doses.forEach((dose, k) => { volume[dose] = new Uint16Array(buffer, 2 * n * k, n); });
  volume.highest_gy = volume[page.doses[0]].reduce((highest, code) => Math.max(highest, code), 0) * volume.dose_step_gy;
  return volume;
}

const inMask = (mask, i) => (mask[i >> 3] >> (7 - (i & 7))) & 1;

// Call each(row, column, value index) for the voxels of a slice, the top row first.
function eachPixel(volume, view, index, each) {
  const [width, height] = [volume.shape[view.h], volume.shape[view.v]];
  const base = index * volume.steps[view.axis];
  for (let row = 0; row < height; row++) {
    const line = base + (view.flip ? height - 1 - row : row) * volume.steps[view.v];
    for (let column = 0; column < width; column++) each(row, column, line + column * volume.steps[view.h]);
  }
}

// Lines at a level in a plane of values, as a path in units of pixels; marching squares with linear interpolation.
// It also returns the line's point farthest to the right in a frame.
function contour(values, width, height, level, frame) {
  const path = new Path2D();
  let right = null;
  const isShown = ([x, y]) => x < frame.x + frame.width && y > frame.y && y < frame.y + frame.height;
  for (let row = 0; row < height - 1; row++) {
    for (let column = 0; column < width - 1; column++) {
      const i = row * width + column;
      const [a, b, c, d] = [values[i], values[i + 1], values[i + width + 1], values[i + width]];
      const kind = (a >= level) | ((b >= level) << 1) | ((c >= level) << 2) | ((d >= level) << 3);
      if (kind === 0 || kind === 15) continue;
      const at = (p, q) => (level - p) / (q - p);
      const [x, y] = [column + 0.5, row + 0.5];
      const edges = {
        T: () => [x + at(a, b), y], R: () => [x + 1, y + at(b, c)], B: () => [x + at(d, c), y + 1], L: () => [x, y + at(a, d)],
      };
      const pairs = { 1: "LT", 2: "TR", 3: "LR", 4: "RB", 5: "LTRB", 6: "TB", 7: "LB", 8: "LB", 9: "TB", 10: "TRLB", 11: "RB", 12: "LR", 13: "TR", 14: "LT" }[kind];
      for (let k = 0; k < pairs.length; k += 2) {
        const from = edges[pairs[k]]();
        path.moveTo(...from);
        path.lineTo(...edges[pairs[k + 1]]());
        if ((!right || from[0] > right[0]) && isShown(from)) right = from;
      }
    }
  }
  return { path, right };
}

// The shown part of a slice, in its pixels: all, or a part around a voxel that all views share.
function frameOf(volume, view, { zoom = 1, focus = null }) {
  const part = (axis, n, flip) => {
    const size = n / zoom;
    const at = (focus ?? volume.centre)[axis] + 0.5;
    return [Math.min(n - size, Math.max(0, (flip ? n - at : at) - size / 2)), size];
  };
  const [[x, width], [y, height]] = [part(view.h, volume.shape[view.h], false), part(view.v, volume.shape[view.v], view.flip)];
  return { x, y, width, height };
}

// Draw one slice into a canvas whose width and height are set. settings: {mode, range (HU), wash, opacity, contours,
// isodoses (a set of percentages), span (Gy of the difference), hidden (ROI names), lit (an ROI), zoom, focus}; cross:
// [z, y, x] or null.
function drawSlice(canvas, volume, view, index, settings, cross) {
  const context = canvas.getContext("2d");
  const [width, height] = [volume.shape[view.h], volume.shape[view.v]];
  const frame = frameOf(volume, view, settings);
  const scale = [canvas.width / frame.width, canvas.height / frame.height];
  const n = width * height;
  const [dark, bright] = settings.range;
  const step = volume.dose_step_gy;
  const isGamma = settings.mode === "gamma"; // above 1: hotter or colder
  const isDifference = isGamma || settings.mode === "difference";
  const [minuend, subtrahend] = settings.between ?? ["predicted", "reference"];
  const greys = page.hu_table.map((hu) => 255 * Math.min(1, Math.max(0, (hu - dark) / (bright - dark))));
  const ct = new ImageData(width, height);
  const wash = new ImageData(width, height);
  const planes = Object.fromEntries(page.doses.map((dose) => [dose, new Float32Array(n)]));
  const from = WASH_FROM * volume.prescription_gy;
  const highest = washHighest(volume);
  eachPixel(volume, view, index, (row, column, i) => {
    const p = row * width + column;
    const grey = greys[volume.ct[i]];
    ct.data.set([grey, grey, grey, 255], 4 * p);
    for (const dose of page.doses) planes[dose][p] = volume[dose][i] * step;
    if (!settings.wash) return;
    if (isGamma && !inMask(volume.failed, i)) return;
    const shown = isDifference ? planes[minuend][p] - planes[subtrahend][p] : planes[settings.mode][p];
    if (!isGamma && (isDifference ? Math.max(planes[minuend][p], planes[subtrahend][p]) : shown) < from) return;
    const share = isGamma ? GAMMA_SHARES[Number(shown > 0)] : isDifference ? (shown / settings.span + 1) / 2 : shown / highest;
    const alpha = settings.opacity * (isGamma ? 1 : isDifference ? Math.min(1, Math.abs(shown) / (CLEAR_TO * settings.span)) : 1);
    const k = 3 * Math.min(255, Math.max(0, Math.round(255 * share)));
    const colours = isDifference ? page.difference : page.wash[settings.map];
    wash.data.set([colours[k], colours[k + 1], colours[k + 2], 255 * alpha], 4 * p);
  });
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  for (const [image, smooth] of [[ct, true], [wash, false]]) {
    const layer = new OffscreenCanvas(width, height);
    layer.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = smooth;
    context.drawImage(layer, frame.x, frame.y, frame.width, frame.height, 0, 0, canvas.width, canvas.height);
  }
  const unit = Math.max(1, canvas.width / 520);
  const stroke = (path, colour, thickness, dash = []) => {
    const scaled = new Path2D();
    scaled.addPath(path, new DOMMatrix([scale[0], 0, 0, scale[1], -frame.x * scale[0], -frame.y * scale[1]]));
    context.setLineDash([]);
    context.lineWidth = (thickness + 1.2) * unit;
    context.strokeStyle = "rgba(0,0,0,0.5)";
    context.stroke(scaled);
    context.setLineDash(dash.map((length) => length * unit));
    context.lineWidth = thickness * unit;
    context.strokeStyle = colour;
    context.stroke(scaled);
    context.setLineDash([]);
  };
  const lines = isDifference ? [[subtrahend, []], [minuend, [5, 4]]] : [[settings.mode, settings.mode === "predicted" && !isAlone ? [5, 4] : []]];
  const labels = [];
  for (const [percent, colour] of ISODOSES) {
    if (!settings.isodoses.has(percent)) continue;
    for (const [dose, dash] of lines) {
      const found = contour(planes[dose], width, height, (percent / 100) * volume.prescription_gy, frame);
      stroke(found.path, colour, 1.1, dash);
      if (found.right) labels.push([`${percent} %`, (found.right[0] - frame.x) * scale[0], (found.right[1] - frame.y) * scale[1], colour]);
    }
  }
  if (settings.contours) {
    const inside = new Float32Array(n);
    for (let k = volume.rois.length - 1; k >= 0; k--) { // targets last, the highest on top
      if (settings.hidden.has(volume.rois[k])) continue;
      let any = 0;
      eachPixel(volume, view, index, (row, column, i) => { any |= inside[row * width + column] = inMask(volume.masks[k], i); });
      context.globalAlpha = settings.lit && settings.lit !== volume.rois[k] ? 0.3 : 1;
      if (any) stroke(contour(inside, width, height, 0.5, frame).path, roiColour(volume.rois[k], true), settings.lit === volume.rois[k] ? 3 : 1.7, roiStrokes(volume.rois[k], page.doses[0]));
      context.globalAlpha = 1;
    }
  }
  const write = writer(context, unit);
  labels.forEach(([text, x, y, colour], k) => {
    const isTaken = () => labels.slice(0, k).some((other) => Math.abs(other[1] - x) < 36 * unit && Math.abs(other[2] - labels[k][2]) < 11 * unit);
    while (isTaken() && labels[k][2] < canvas.height) labels[k][2] += 11 * unit;
    write(text, Math.min(x + 3 * unit, canvas.width - 34 * unit), labels[k][2], "left", "middle", colour, 10);
  });
  drawMarks(context, canvas, volume, view, unit, scale, write);
  if (cross) drawCross(context, canvas, volume, view, cross, unit, scale, frame);
}

const washHighest = (volume) => Math.max(1.1 * volume.prescription_gy, volume.highest_gy ?? 0);

function writer(context, unit) {
  context.lineJoin = "round";
  return (text, x, y, align, baseline, colour = "#fff", size = 12) => {
    context.font = `600 ${size * unit}px system-ui, sans-serif`;
    context.textAlign = align;
    context.textBaseline = baseline;
    context.lineWidth = 3 * unit;
    context.strokeStyle = "#000";
    context.strokeText(text, x, y);
    context.fillStyle = colour;
    context.fillText(text, x, y);
  };
}

function drawMarks(context, canvas, volume, view, unit, scale, write) {
  const [w, h] = [canvas.width, canvas.height];
  const edge = 5 * unit;
  write(view.sides[0], edge, h / 2, "left", "middle");
  write(view.sides[1], w - edge, h / 2, "right", "middle");
  write(view.sides[2], w / 2, edge, "center", "top");
  write(view.sides[3], w / 2, h - edge, "center", "bottom");
  const bar = (50 / volume.spacing_mm[view.h]) * scale[0];
  const y = h - 2 * edge;
  for (const [colour, thickness] of [["#000", 5], ["#fff", 2.5]]) {
    context.beginPath();
    context.moveTo(2 * edge, y);
    context.lineTo(2 * edge + bar, y);
    context.strokeStyle = colour;
    context.lineWidth = thickness * unit;
    context.stroke();
  }
  write("5 cm", 2 * edge, y - edge, "left", "bottom");
}

function drawCross(context, canvas, volume, view, cross, unit, scale, frame) {
  const x = (cross[view.h] + 0.5 - frame.x) * scale[0];
  const row = view.flip ? volume.shape[view.v] - 1 - cross[view.v] : cross[view.v];
  const y = (row + 0.5 - frame.y) * scale[1];
  const gap = 9 * unit;
  context.beginPath();
  for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, canvas.height]]) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.strokeStyle = "rgba(255,255,255,0.65)";
  context.lineWidth = unit;
  context.stroke();
}

// The three views with their sliders. onLook([z, y, x]) is called with the voxel under the pointer, else at the crosshair.
class Viewer {
  constructor(settings, onLook) {
    this.settings = settings;
    this.onLook = onLook;
    this.enlarged = null;
    this.parts = VIEWS.map((view) => this.makePart(view));
    this.node = el("div", { class: "views" }, this.parts.map((p) => p.figure));
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  makePart(view) {
    const canvas = el("canvas", { tabindex: "0", role: "application", "aria-label": `${view.name} slice; arrow keys move the crosshair, Page Up and Page Down change the slice` });
    const slider = el("input", { type: "range", min: "0", step: "1", "aria-label": `${view.name} slice`, oninput: () => this.move(view.axis, Number(slider.value)) });
    const label = el("span", { class: "muted" });
    const enlarge = el("button", { type: "button", "aria-pressed": "false", onclick: () => this.enlarge(view) }, "Enlarge");
    const figure = el("figure", { class: "view" }, el("figcaption", {}, el("strong", {}, view.name), label, enlarge), canvas, slider);
    const voxel = (event) => this.voxelAt(canvas, view, event);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey) this.zoomBy(event.deltaY < 0 ? 1.25 : 0.8, voxel(event));
      else this.move(view.axis, this.cross[view.axis] + Math.sign(event.deltaY) * (view.axis === 0 ? -1 : 1));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button === 0 && !event.shiftKey) this.jump(voxel(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 2) this.changeWindow(event.movementX, event.movementY);
      else if (event.buttons & 1 && event.shiftKey) this.pan(canvas, view, event.movementX, event.movementY);
      else if (event.buttons & 1) this.jump(voxel(event));
      else this.onLook(voxel(event));
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerleave", () => this.onLook(this.cross));
    canvas.addEventListener("keydown", (event) => this.key(event, view));
    return { view, canvas, slider, label, figure, enlarge };
  }

  show(volume) {
    this.volume = volume;
    this.cross = [...volume.centre];
    Object.assign(this.settings, { zoom: 1, focus: null });
    for (const { view, slider } of this.parts) slider.max = String(volume.shape[view.axis] - 1);
    this.draw();
    this.onLook(this.cross);
  }

  voxelAt(canvas, view, event) {
    const box = canvas.getBoundingClientRect();
    const frame = frameOf(this.volume, view, this.settings);
    const at = (offset, length, start, size, n) => Math.min(n - 1, Math.max(0, Math.floor(start + (offset / length) * size)));
    const column = at(event.clientX - box.left, box.width, frame.x, frame.width, this.volume.shape[view.h]);
    const row = at(event.clientY - box.top, box.height, frame.y, frame.height, this.volume.shape[view.v]);
    const voxel = [...this.cross];
    voxel[view.h] = column;
    voxel[view.v] = view.flip ? this.volume.shape[view.v] - 1 - row : row;
    return voxel;
  }

  zoomBy(factor, voxel = this.cross) {
    const before = this.settings.zoom;
    const zoom = Math.min(12, Math.max(1, before * factor));
    const focus = this.settings.focus ?? this.volume.shape.map((n) => (n - 1) / 2);
    Object.assign(this.settings, { zoom, focus: zoom === 1 ? null : focus.map((at, k) => voxel[k] + ((at - voxel[k]) * before) / zoom) });
    this.draw();
  }

  pan(canvas, view, right, down) {
    const frame = frameOf(this.volume, view, this.settings);
    const focus = [...(this.settings.focus ?? this.volume.centre)];
    focus[view.h] = frame.x + frame.width / 2 - 0.5 - (right / canvas.clientWidth) * frame.width;
    const row = frame.y + frame.height / 2 - (down / canvas.clientHeight) * frame.height;
    focus[view.v] = (view.flip ? this.volume.shape[view.v] - row : row) - 0.5;
    this.settings.focus = focus;
    this.draw();
  }

  changeWindow(right, down) {
    const [low, high] = this.settings.range;
    const width = Math.max(20, high - low + 2 * right);
    const level = (low + high) / 2 + 2 * down;
    this.settings.range = [level - width / 2, level + width / 2];
    this.draw();
    this.onWindow?.(level, width);
  }

  // To the voxel with the largest difference of the two doses, in an ROI or, without one, in all voxels.
  toLargestDifference(roi) {
    const { masks, rois, shape, steps, prescription_gy: prescription, dose_step_gy: step, n } = this.volume;
    const [predicted, reference] = (this.settings.between ?? ["predicted", "reference"]).map((dose) => this.volume[dose]);
    const mask = roi ? masks[rois.indexOf(roi)] : null;
    const from = (WASH_FROM * prescription) / step;
    let [best, place] = [-1, null];
    for (let i = 0; i < n; i++) {
      if (mask ? !inMask(mask, i) : Math.max(reference[i], predicted[i]) < from) continue;
      const difference = Math.abs(predicted[i] - reference[i]);
      if (difference > best) [best, place] = [difference, i];
    }
    if (place === null) return;
    const voxel = [Math.floor(place / steps[0]), Math.floor((place % steps[0]) / steps[1]), place % shape[2]];
    if (this.settings.focus) this.settings.focus = [...voxel];
    this.jump(voxel);
  }

  key(event, view) {
    const factor = { "+": 1.25, "-": 0.8 }[event.key];
    if (factor) this.zoomBy(factor);
    const down = view.flip ? -1 : 1;
    const move = {
      ArrowLeft: [view.h, -1], ArrowRight: [view.h, 1], ArrowUp: [view.v, -down], ArrowDown: [view.v, down],
      PageUp: [view.axis, 1], PageDown: [view.axis, -1],
    }[event.key];
    if (!move) return;
    event.preventDefault();
    this.move(move[0], this.cross[move[0]] + move[1]);
  }

  move(axis, index) {
    const voxel = [...this.cross];
    voxel[axis] = Math.min(this.volume.shape[axis] - 1, Math.max(0, index));
    this.jump(voxel);
  }

  jump(voxel) {
    this.cross = voxel;
    this.draw();
    this.onLook(voxel);
  }

  enlarge(view) {
    this.enlarged = this.enlarged === view ? null : view;
    for (const p of this.parts) {
      p.enlarge.setAttribute("aria-pressed", String(p.view === this.enlarged));
      p.figure.hidden = this.enlarged !== null && p.view !== this.enlarged;
    }
    this.draw();
  }

  draw() {
    if (!this.volume || !this.node.isConnected) return;
    const size = (axis) => this.volume.shape[axis] * this.volume.spacing_mm[axis];
    this.node.style.gridTemplateColumns = this.enlarged ? "minmax(0, 1fr)" : VIEWS.map((view) => `minmax(0, ${size(view.h)}fr)`).join(" ");
    for (const { view, canvas, slider, label, figure } of this.parts) {
      if (figure.hidden) continue;
      const ratio = size(view.v) / size(view.h);
      const width = figure.clientWidth;
      const shown = Math.min(width, (0.9 * Math.max(400, innerHeight)) / ratio);
      canvas.style.width = `${shown}px`;
      canvas.width = Math.max(1, Math.round(shown * devicePixelRatio));
      canvas.height = Math.max(1, Math.round(shown * ratio * devicePixelRatio));
      drawSlice(canvas, this.volume, view, this.cross[view.axis], this.settings, this.cross);
      const mm = this.volume.origin_mm[view.axis] + this.cross[view.axis] * this.volume.spacing_mm[view.axis];
      const text = `${AXIS_NAMES[view.axis]} = ${fixed(mm, 1)} mm`;
      label.textContent = text;
      slider.value = String(this.cross[view.axis]);
      slider.setAttribute("aria-valuetext", text);
    }
  }
}

const MODES = isAlone ? page.doses : [...page.doses, "difference"];

// All three views of the doses, and of their difference if there are two, in one picture, for print.
function pictureOf(volume, settings) {
  const size = (axis) => volume.shape[axis] * volume.spacing_mm[axis];
  const scale = 1500 / (2 * size(2) + size(1));
  const height = Math.max(size(1), size(0)) * scale;
  const [gap, heading] = [8, 26];
  const picture = el("canvas", { width: Math.round((2 * size(2) + size(1)) * scale) + 2 * gap, height: Math.round(MODES.length * (height + heading)) });
  const context = picture.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, picture.width, picture.height);
  MODES.forEach((mode, row) => {
    let left = 0;
    for (const view of VIEWS) {
      const canvas = el("canvas", { width: Math.round(size(view.h) * scale), height: Math.round(size(view.v) * scale) });
      drawSlice(canvas, volume, view, volume.centre[view.axis], { ...settings, mode }, null);
      const top = row * (height + heading);
      context.fillStyle = "#000";
      context.font = "18px sans-serif";
      context.fillText(`${view.name}, ${mode}`, left + 2, top + 19);
      context.drawImage(canvas, left, top + heading);
      left += canvas.width + gap;
    }
  });
  return picture.toDataURL("image/jpeg", 0.88);
}
