"use strict";
// One player: its video, the boxes drawn over it, its labels. What several players do together is not known here.

const SLICE = 4 * 2 ** 20; // letters of base64 decoded at once, a multiple of 4

function blobOf(id) {
  const element = document.getElementById(id);
  if (!element) return null;
  const text = element.textContent.trim();
  const parts = [];
  for (let start = 0; start < text.length; start += SLICE) {
    const letters = atob(text.slice(start, start + SLICE));
    const bytes = new Uint8Array(letters.length);
    for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
    parts.push(bytes);
  }
  return new Blob(parts, { type: "video/mp4" });
}

class Player {
  constructor(root) {
    this.root = root;
    this.run = page.runs[Number(root.dataset.run)];
    this.video = root.querySelector("video");
    this.canvas = root.querySelector("canvas");
    this.timeline = root.querySelector(".timeline");
    this.playhead = root.querySelector(".playhead");
    this.hidden = new Set();
    this.boxesOn = true;
    this.frame = 0;
    this.listen();
    this.load(0);
  }

  find(selector) { return this.root.querySelector(selector); }

  listen() {
    const video = this.video;
    this.find(".play").addEventListener("click", () => toggle(this));
    video.addEventListener("click", () => toggle(this));
    this.find(".boxes").addEventListener("click", () => this.showBoxes(!this.boxesOn));
    this.find(".speed").addEventListener("change", (event) => setSpeed(this, event.target.value));
    const select = this.find("select.clip");
    if (select) select.addEventListener("change", () => this.load(Number(select.value)));
    for (const name of ["play", "pause", "ended"]) video.addEventListener(name, () => this.showState());
    for (const name of ["loadeddata", "seeked"]) video.addEventListener(name, () => this.showTime(video.currentTime));
    video.addEventListener("error", () => { if (video.getAttribute("src")) this.absent("this browser cannot play the video"); });
    this.timeline.addEventListener("pointerdown", (event) => {
      this.timeline.setPointerCapture(event.pointerId);
      this.seekTo(event);
    });
    this.timeline.addEventListener("pointermove", (event) => { if (event.buttons & 1) this.seekTo(event); });
    new ResizeObserver(() => this.paint()).observe(this.canvas);
    this.follow();
  }

  // Every frame that is shown says its own time; browsers without that are asked for the time on every repaint.
  follow() {
    const video = this.video;
    if ("requestVideoFrameCallback" in HTMLVideoElement.prototype) {
      const shown = (_, frame) => { this.showTime(frame.mediaTime); video.requestVideoFrameCallback(shown); };
      video.requestVideoFrameCallback(shown);
    } else {
      const look = () => { if (!video.paused) this.showTime(video.currentTime); requestAnimationFrame(look); };
      requestAnimationFrame(look);
    }
  }

  load(index) {
    this.video.pause();
    this.clip = this.run.clips[index];
    this.labels = JSON.parse(document.getElementById(`labels-${this.clip.key}`).textContent);
    this.duration = this.clip.frames / this.clip.fps;
    this.indexBoxes();
    this.buildLegend();
    const happened = this.run.events.filter((event) => event.clip_id === this.clip.id);
    this.find(".tracks").replaceChildren(...new Timeline(this.clip, this.labels.values, happened).build());
    this.timeline.setAttribute("aria-valuemax", this.duration.toFixed(2));
    this.find(".facts").textContent =
      `${this.clip.width}×${this.clip.height}, ${+this.clip.fps.toFixed(3)} fps, ${this.duration.toFixed(1)} s` + (this.clip.facts ? `, ${this.clip.facts}` : "");
    const excerpt = this.find(".excerpt");
    excerpt.textContent = this.clip.note || "";
    excerpt.hidden = !this.clip.note;
    this.frame = 0;
    this.openVideo();
    this.showTime(0);
  }

  openVideo() {
    const blob = blobOf(`video-${this.clip.key}`);
    const before = this.url;
    this.video.hidden = this.canvas.hidden = !blob;
    this.find(".absent").hidden = Boolean(blob);
    if (!blob) {
      this.video.removeAttribute("src");
      this.absent(this.clip.note || "this clip's video is not in this page");
    } else {
      this.url = URL.createObjectURL(blob);
      this.video.src = this.url;
      this.video.playbackRate = this.video.defaultPlaybackRate = Number(this.find(".speed").value);
    }
    if (before) URL.revokeObjectURL(before);
  }

  absent(text) {
    const line = this.find(".absent");
    line.textContent = text;
    line.hidden = false;
    this.video.hidden = this.canvas.hidden = true;
  }

  indexBoxes() {
    const { boxes } = this.labels, size = page.boxFields;
    this.firstBox = new Int32Array(this.clip.frames + 1).fill(0);
    for (let at = 0; at < boxes.length; at += size) this.firstBox[boxes[at] + 1] += 1;
    for (let frame = 0; frame < this.clip.frames; frame++) this.firstBox[frame + 1] += this.firstBox[frame];
  }

  buildLegend() {
    const counts = page.categories.map(() => 0);
    for (let at = 0; at < this.labels.boxes.length; at += page.boxFields) counts[this.labels.boxes[at + 2]] += 1;
    const buttons = page.categories.map((category, number) => {
      const button = make("button");
      button.type = "button";
      button.disabled = !counts[number];
      button.hidden = !counts[number];
      button.setAttribute("aria-pressed", String(!this.hidden.has(number)));
      const swatch = make("i");
      swatch.style.background = category.colour;
      button.append(swatch, `${category.name} ${counts[number]}`);
      button.addEventListener("click", () => {
        if (!this.hidden.delete(number)) this.hidden.add(number);
        button.setAttribute("aria-pressed", String(!this.hidden.has(number)));
        this.paint();
      });
      return button;
    });
    const known = counts.some((count) => count > 0);
    const covered = this.labels.unknown.reduce((sum, [start, end]) => sum + end - start, 0);
    const words = known ? [] : [make("span", "dim", covered >= this.clip.frames ? "boxes unknown" : "no boxes")];
    this.find(".legend").replaceChildren(...buttons, ...words);
  }

  seekTo(event) {
    const area = this.timeline.getBoundingClientRect();
    seek(this, clamp((event.clientX - area.left) / area.width, 0, 1) * this.duration);
  }

  // what is seen now

  setTime(seconds) {
    const frame = clamp(Math.floor(seconds * this.clip.fps + 1e-6), 0, (this.clip.shown || this.clip.frames) - 1);
    this.video.currentTime = (frame + 0.5) / this.clip.fps; // the middle of a frame: rounding never shows its neighbour
    this.showTime(frame / this.clip.fps);
  }

  showTime(seconds) {
    this.frame = clamp(Math.floor(seconds * this.clip.fps + 0.05), 0, this.clip.frames - 1);
    this.root.dataset.frame = String(this.frame);
    const time = this.frame / this.clip.fps;
    this.playhead.style.left = `${100 * (this.frame + 0.5) / this.clip.frames}%`;
    this.find(".clock").textContent = `${time.toFixed(2)} of ${this.duration.toFixed(1)} s, frame ${this.frame}`;
    this.timeline.setAttribute("aria-valuenow", time.toFixed(2));
    this.showLabels();
    this.paint();
  }

  showLabels() {
    const value = (name) => { const all = this.labels.values[name]; return all ? all[this.frame] : null; };
    const code = value("time_of_day");
    const facts = [["time of day", code === null ? "unknown" : TIMES_OF_DAY[code]]];
    for (const row of ROWS) {
      const number = value(row.name);
      if (number !== null || !row.optional) facts.push([row.title, number === null ? "unknown" : `${number.toFixed(row.digits)} ${row.unit}`]);
    }
    const unknown = this.labels.unknown.some(([start, end]) => start <= this.frame && this.frame < end);
    facts.push(["boxes", unknown ? "unknown" : String(this.firstBox[this.frame + 1] - this.firstBox[this.frame])]);
    this.find(".now").replaceChildren(...facts.map(([name, text]) => {
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", "", text));
      return pair;
    }));
  }

  showState() {
    const button = this.find(".play"), playing = !this.video.paused && !this.video.ended;
    button.textContent = playing ? "❚❚" : "▶";
    button.setAttribute("aria-label", playing ? "pause" : "play");
  }

  showBoxes(on) {
    this.boxesOn = on;
    this.find(".boxes").setAttribute("aria-pressed", String(on));
    this.paint();
  }

  paint() {
    const ratio = window.devicePixelRatio || 1, area = this.canvas.getBoundingClientRect();
    const width = Math.round(area.width * ratio), height = Math.round(area.height * ratio);
    if (!width || !height || !this.labels) return;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    if (!this.boxesOn) return;
    for (let row = this.firstBox[this.frame]; row < this.firstBox[this.frame + 1]; row++) this.paintBox(pen, row * page.boxFields, width, height, ratio);
  }

  paintBox(pen, at, width, height, ratio) {
    const [, track, category, x1, y1, x2, y2, ignored] = this.labels.boxes.slice(at, at + page.boxFields);
    if (this.hidden.has(category)) return;
    const across = width / page.boxScale, up = height / page.boxScale, { name, colour } = page.categories[category];
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = (ignored ? 1 : 2) * ratio;
    pen.setLineDash(ignored ? [3 * ratio, 3 * ratio] : []);
    pen.strokeRect(x1 * across, y1 * up, (x2 - x1) * across, (y2 - y1) * up);
    if (ignored || (x2 - x1) * across < 34 * ratio) return;
    pen.font = `${11 * ratio}px system-ui, sans-serif`;
    const text = `${name} ${track}`, wide = pen.measureText(text).width + 6 * ratio, high = 14 * ratio;
    const left = clamp(x1 * across - ratio, 0, width - wide), top = Math.max(0, y1 * up - high);
    pen.fillRect(left, top, wide, high);
    pen.fillStyle = "#000";
    pen.fillText(text, left + 3 * ratio, top + high - 3.5 * ratio);
  }
}
