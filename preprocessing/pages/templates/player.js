"use strict";
// The skeleton player: every <figure data-player> plays the clips of the JSON inside it (preprocessing/pages/player.py).
// A clip may have several panels (the recording, the built file); they show the same frame from the same side.
const ABSENT = -32768; // in all coordinates of a joint that was not found
class SkeletonPlayer {
  constructor(root, data) {
    Object.assign(this, { root, data, frame: 0, yaw: 0, pitch: 0, playing: false, last: 0, drawn: [] });
    this.body = element("div", { className: "stage" });
    this.panels = element("div", { className: "panels" });
    this.facts = element("ul", { className: "facts" });
    this.note = element("p", { className: "facts" });
    this.marks = element("div", { className: "marks" });
    this.label = element("p", { className: "mark-label" });
    this.body.append(this.choice(), this.panels, this.controls(), this.marks, this.label, this.note, this.facts);
    root.append(this.body);
    this.show(0);
    if ("autoplay" in root.dataset && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.play(true);
  }

  // A menu of clips, where there are several.
  choice() {
    const row = element("div", { className: "controls" });
    if (this.data.clips.length < 2) return row;
    this.menu = element("select");
    this.data.clips.forEach((clip, index) => this.menu.add(new Option(`${clip.name} ${clip.action}`, index)));
    this.menu.onchange = () => this.show(Number(this.menu.value));
    const label = element("label", { textContent: "Clip " });
    label.append(this.menu);
    row.append(label);
    return row;
  }

  controls() {
    const row = element("div", { className: "controls" });
    this.button = element("button", { type: "button", textContent: "Play", onclick: () => this.play(!this.playing) });
    this.slider = element("input", { type: "range", min: 0, value: 0, ariaLabel: "Frame" });
    this.slider.oninput = () => { this.play(false); this.seek(Number(this.slider.value)); };
    this.count = element("output");
    this.speed = element("select", { ariaLabel: "Speed" });
    [["1/4 speed", 0.25], ["normal speed", 1], ["3 x speed", 3]].forEach(([name, value]) => this.speed.add(new Option(name, value)));
    this.speed.value = "1";
    const sides = [["Front", 0, 0], ["Side", Math.PI / 2, 0], ["Top", 0, Math.PI / 2]].map(([name, yaw, pitch]) =>
      element("button", { type: "button", textContent: name, onclick: () => this.turn(yaw, pitch) }));
    row.append(this.button, this.slider, this.count, this.speed, ...sides);
    return row;
  }

  show(index) {
    this.clip = this.data.clips[index];
    if (this.menu) this.menu.value = index;
    this.slider.max = Math.max(this.clip.frames - 1, 0);
    this.note.textContent = this.clip.note;
    this.note.hidden = !this.clip.note;
    this.facts.replaceChildren(...this.clip.decisions.map((text) => element("li", { textContent: text })));
    this.drawn = this.clip.panels.map((panel) => this.panel(panel));
    this.panels.replaceChildren(...this.drawn.map((one) => one.figure));
    this.marks.replaceChildren(...(this.clip.marks ?? []).map((mark) => this.mark(mark)));
    this.marks.hidden = this.label.hidden = !this.clip.marks;
    this.seek(0);
  }

  panel(panel) {
    const figure = element("div", { className: "panel" });
    const canvas = element("canvas", { ariaLabel: `${panel.title}: ${this.clip.name}, ${this.clip.action}` });
    canvas.setAttribute("role", "img");
    const list = element("ul", { className: "bodies" });
    let kept = 0;
    const bodies = panel.bodies.map((body) => {
      const colour = body.dropped ? "--dropped" : `--body-${kept++ % 6}`;
      const line = element("li");
      const swatch = element("i");
      swatch.style.background = `var(${colour})`;
      const dropped = body.dropped ? `, ${body.dropped}` : "";
      line.append(swatch, `${body.label}, ${body.frames.length} frames${dropped}`);
      list.append(line);
      return { colour, dropped: Boolean(body.dropped), xyz: unpack(body.joints), row: new Map(body.frames.map((f, i) => [f, i])) };
    });
    bodies.sort((a, b) => Number(b.dropped) - Number(a.dropped)); // what was dropped is drawn below what was kept
    figure.append(element("p", { className: "name", textContent: panel.title }), canvas, list);
    canvas.onpointerdown = (event) => canvas.setPointerCapture(event.pointerId);
    canvas.onpointermove = (event) => {
      if (event.buttons) this.turn(this.yaw + event.movementX * 0.01, this.pitch + event.movementY * 0.01);
    };
    canvas.tabIndex = 0;
    canvas.onkeydown = (event) => {
      const turn = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
      if (!turn) return;
      event.preventDefault();
      this.turn(this.yaw + turn[0], this.pitch + turn[1]);
    };
    return { figure, canvas, bodies, frames: panel.frames, ...room(bodies) };
  }

  // A stretch with a label: as wide as it is long; a click goes to its first frame.
  mark(mark) {
    const part = element("button", { type: "button", className: "mark-part", title: `${mark.label}, ${mark.note}` });
    part.style.flexGrow = mark.last - mark.first + 1;
    part.style.background = mark.colour < 0 ? "var(--line)" : `hsl(${(mark.colour * 137.5) % 360} 55% 55%)`;
    part.ariaLabel = `${mark.label}, ${mark.note}`;
    part.onclick = () => this.seek(mark.first);
    return part;
  }

  play(on) {
    this.playing = on;
    this.last = performance.now();
    this.button.textContent = on ? "Pause" : "Play";
  }

  seek(frame) {
    this.frame = Math.min(Math.max(frame, 0), Math.max(this.clip.frames - 1, 0));
    this.draw();
  }

  turn(yaw, pitch) {
    this.yaw = yaw;
    this.pitch = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, pitch));
    this.draw();
  }

  tick() {
    if (!this.playing) return;
    const now = performance.now();
    const step = 1000 / this.data.fps / Number(this.speed.value);
    if (now - this.last < step) return;
    this.seek((this.frame + Math.max(1, Math.floor((now - this.last) / step))) % this.clip.frames);
    this.last = now;
  }

  draw() {
    this.slider.value = this.frame;
    this.count.textContent = `frame ${this.frame + 1} of ${this.clip.frames}`;
    this.root.dataset.frame = this.frame;
    const now = (this.clip.marks ?? []).findIndex((mark) => this.frame >= mark.first && this.frame <= mark.last);
    [...this.marks.children].forEach((part, place) => part.classList.toggle("now", place === now));
    this.label.textContent = now >= 0 ? `${this.clip.marks[now].label}, ${this.clip.marks[now].note}` : "";
    for (const one of this.drawn) this.paint(one);
  }

  paint({ canvas, bodies, frames, middle, half }) {
    const scale = window.devicePixelRatio || 1;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = wide * scale;
    canvas.height = high * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const zoom = Math.min(wide, high) / 2 / half;
    const [cosY, sinY, cosP, sinP] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const at = (xyz, i) => {
      const [x, y, z] = middle.map((m, axis) => xyz[i + axis] - m);
      const deep = z * cosY - x * sinY;
      return [wide / 2 + (x * cosY + z * sinY) * zoom, high / 2 - (y * cosP + deep * sinP) * zoom];
    };
    const style = getComputedStyle(document.documentElement);
    pen.lineWidth = 2.5;
    pen.lineCap = "round";
    const frame = Math.min(this.frame, frames - 1); // a shorter panel holds its last frame
    for (const body of bodies) {
      const row = body.row.get(frame);
      if (row === undefined) continue;
      const start = row * this.data.joints * 3;
      pen.strokeStyle = pen.fillStyle = style.getPropertyValue(body.colour);
      pen.beginPath();
      const found = (joint) => body.xyz[start + joint * 3] !== ABSENT;
      for (const [parent, child] of this.data.bones) {
        if (!found(parent) || !found(child)) continue;
        pen.moveTo(...at(body.xyz, start + parent * 3));
        pen.lineTo(...at(body.xyz, start + child * 3));
      }
      pen.stroke();
      for (let joint = 0; joint < this.data.joints; joint++) {
        if (!found(joint)) continue;
        pen.beginPath();
        pen.arc(...at(body.xyz, start + joint * 3), 3, 0, 7);
        pen.fill();
      }
    }
  }
}

function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Int16Array(bytes.buffer);
}

// Middle of all bodies of a panel, and the half width that holds them from any side (millimetres).
function room(bodies) {
  const low = [1e9, 1e9, 1e9];
  const high = [-1e9, -1e9, -1e9];
  for (const { xyz } of bodies) {
    for (let i = 0; i < xyz.length; i++) {
      if (xyz[i] === ABSENT) continue;
      low[i % 3] = Math.min(low[i % 3], xyz[i]);
      high[i % 3] = Math.max(high[i % 3], xyz[i]);
    }
  }
  const middle = low.map((value, axis) => (value <= high[axis] ? (value + high[axis]) / 2 : 0));
  return { middle, half: Math.max(300, ...low.map((value, axis) => (high[axis] - value) / 2)) * 1.15 };
}

const players = [...document.querySelectorAll("[data-player]")].map(
  (root) => new SkeletonPlayer(root, JSON.parse(root.querySelector("script").textContent)),
);
const redraw = () => players.forEach((player) => player.draw());
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
// #clip=NAME&frame=N&side&play opens the first player there, so that a link can point at what it is about.
const asked = new URLSearchParams(location.hash.slice(1));
if (players.length) {
  const [first] = players;
  const place = first.data.clips.findIndex((clip) => clip.name === asked.get("clip"));
  if (place >= 0) first.show(place);
  if (asked.has("frame")) first.seek(Number(asked.get("frame")) || 0);
  if (asked.has("side")) first.turn(Math.PI / 2, 0);
  if (asked.has("play")) first.play(true);
}
setInterval(() => players.forEach((player) => player.tick()), 15);
document.body.dataset.ready = "1";
