"use strict";
// Timelines of one clip's labels as SVG. This file knows labels; it does not know videos.

const page = JSON.parse(document.getElementById("report-data").textContent);
const ROWS = [
  { name: "crowdedness", title: "crowdedness", unit: "vehicles", digits: 0 },
  { name: "ego_speed_mps", title: "ego speed", unit: "m/s", digits: 1 },
  { name: "ego_yaw_rate_radps", title: "ego yaw rate", unit: "rad/s", digits: 2, optional: true },
];
const TIMES_OF_DAY = ["day", "night"];
const EVENTS = ["freeze", "cut", "repeat"];
const MOST_POINTS = 1500;

const make = (name, className, text) => {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const draw = (name, attributes, parent) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
};
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

class Timeline {
  // clip: its entry in the page's data. values: label -> numbers a frame, or null. happened: events of this clip.
  constructor(clip, values, happened) {
    Object.assign(this, { clip, values, happened, duration: clip.frames / clip.fps });
  }

  // Element of all tracks, one above the other, over a common time.
  build() {
    const tracks = [this.timesOfDay(), ...ROWS.map((row) => this.curve(row)), this.events()].filter(Boolean);
    for (const { svg } of tracks) {
      const shown = this.clip.shown;
      if (shown < this.clip.frames) draw("rect", { class: "beyond", x: shown, width: this.clip.frames - shown, y: 0, height: 1 }, svg);
    }
    return [...tracks.map(({ element }) => element), this.scale()];
  }

  track(title, className) {
    const element = make("div", `track ${className}`);
    const svg = draw("svg", { viewBox: `0 0 ${this.clip.frames} 1`, preserveAspectRatio: "none" });
    element.append(svg, make("span", "name", title));
    return { element, svg };
  }

  timesOfDay() {
    const values = this.values.time_of_day;
    const track = this.track(values ? "time of day" : "time of day unknown", "thin");
    for (let start = 0; start < this.clip.frames;) {
      let end = start + 1;
      while (end < this.clip.frames && values && values[end] === values[start]) end += 1;
      if (!values) end = this.clip.frames;
      const kind = values && values[start] !== null ? TIMES_OF_DAY[values[start]] : "unknown";
      draw("rect", { class: kind, x: start, width: end - start, y: 0, height: 1 }, track.svg);
      start = end;
    }
    return track;
  }

  curve(row) {
    const values = this.values[row.name];
    if (!values && row.optional) return null;
    if (!values) return this.track(`${row.title} unknown`, "empty");
    let low = 0, high = 0;
    for (const value of values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
    const span = high - low || 1, place = (value) => (0.94 - 0.84 * (value - low) / span).toFixed(4);
    const track = this.track(`${row.title} ${low.toFixed(row.digits)} to ${high.toFixed(row.digits)} ${row.unit}`, "");
    const step = Math.max(1, Math.ceil(values.length / MOST_POINTS));
    let line = "", pen = false;
    for (let start = 0; start < values.length; start += step) {
      const part = values.slice(start, start + step).filter((value) => value !== null);
      if (!part.length) { pen = false; continue; }
      for (const value of step === 1 ? part : [Math.min(...part), Math.max(...part)]) {
        line += `${pen ? "L" : "M"}${start + 0.5} ${place(value)}`;
        pen = true;
      }
    }
    draw("path", { class: "curve", d: line }, track.svg);
    return track;
  }

  events() {
    const found = this.happened;
    if (!found.length) return null;
    const track = this.track("", "thin"), name = track.element.lastChild;
    for (const kind of EVENTS) {
      const count = found.filter((event) => event.kind === kind).length;
      if (count) name.append(make("i", kind), `${count} ${kind}${count === 1 ? "" : "s"}`);
    }
    const least = this.clip.frames / 400; // a cut lasts no time and must be seen
    for (const event of found) {
      const start = event.start_s * this.clip.fps, width = Math.max(least, (event.end_s - event.start_s) * this.clip.fps);
      const mark = draw("rect", { class: event.kind, x: start, width, y: 0, height: 1 }, track.svg);
      draw("title", {}, mark).textContent = `${event.kind} at ${event.start_s.toFixed(2)} s`;
    }
    return track;
  }

  scale() {
    const element = make("div", "scale");
    const step = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find((each) => this.duration / each <= 8) || 7200;
    for (let time = 0; time < this.duration * 0.97; time += step) {
      const mark = make("span", "", time < 60 || step < 1 ? `${time} s` : `${Math.floor(time / 60)}:${String(time % 60).padStart(2, "0")}`);
      mark.style.left = `${100 * time / this.duration}%`;
      element.append(mark);
    }
    return element;
  }
}
