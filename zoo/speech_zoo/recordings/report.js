"use strict";
const $ = (id) => document.getElementById(id), all = (what, within = document) => [...within.querySelectorAll(what)];
const data = JSON.parse($("data").textContent), { segments, speakers, seconds } = data;
const audio = $("audio"), wave = $("wave"), scroller = $("scroller"), canvas = wave.firstElementChild;
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const clock = (time) => {
  const tenths = Math.round(time * 10), minutes = Math.floor(tenths / 600), two = (n) => String(n).padStart(2, "0");
  const hours = minutes >= 60 ? `${Math.floor(minutes / 60)}:${two(minutes % 60)}` : minutes;
  return `${hours}:${two(Math.floor(tenths / 10) % 60)}.${tenths % 10}`;
};

// Sound
audio.src = URL.createObjectURL(new Blob($("opus").textContent.trim().split("\n").map(bytes), { type: "audio/webm" }));
$("opus").remove();
let at = 0; // what the page shows; the audio follows as soon as it can
const seek = (time) => { at = audio.currentTime = Math.min(Math.max(time, 0), seconds); show(true); };
const play = () => audio.play().catch(() => { $("now").textContent = "This browser cannot play Opus in WebM."; });
const toggle = () => (audio.paused ? play() : audio.pause());
audio.onplay = audio.onpause = () => {
  document.body.classList.toggle("playing", !audio.paused);
  $("play").setAttribute("aria-label", audio.paused ? "Play" : "Pause");
  if (!audio.paused) requestAnimationFrame(tick);
};
audio.ontimeupdate = audio.onseeked = () => { at = audio.currentTime; show(false); };
function tick() {
  if (audio.paused) return;
  at = audio.currentTime;
  show(false);
  requestAnimationFrame(tick);
}
$("play").onclick = toggle;
$("speed").onchange = () => { audio.playbackRate = Number($("speed").value); };

// What is shown of the moment
const blocks = all(".seg"), turns = all("#turns button"), end = (s) => s.start + s.length;
blocks.sort((a, b) => a.dataset.i - b.dataset.i);
const longest = Math.max(0, ...segments.map((s) => s.length));
let active = [], current = 0;
const after = (time) => { // the first segment that begins later
  let low = 0, high = segments.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (segments[middle].start > time) high = middle; else low = middle + 1;
  }
  return low;
};
function speaking(time) {
  const found = [];
  for (let i = after(time) - 1; i >= 0 && segments[i].start > time - longest; i--) if (time < end(segments[i])) found.unshift(i);
  return found;
}
function show(jumped) {
  const share = Math.min(at / seconds, 1), now = speaking(at);
  $("head").style.left = `calc(var(--label) + (100% - var(--label)) * ${share})`;
  if ($("time").textContent !== clock(at)) {
    $("time").textContent = clock(at);
    wave.setAttribute("aria-valuenow", at.toFixed(1));
  }
  if (jumped || !audio.paused) follow(share, jumped);
  if (now.join() === active.join() && !jumped) return;
  for (const i of active) { blocks[i].classList.remove("on"); turns[i].removeAttribute("aria-current"); }
  for (const i of now) { blocks[i].classList.add("on"); turns[i].setAttribute("aria-current", "true"); }
  active = now;
  const here = [...new Set(now.map((i) => segments[i].speaker))];
  $("now").replaceChildren(...here.map((who) => {
    const chip = document.createElement("span"), name = document.createElement("span");
    name.className = "name";
    name.textContent = names[who];
    chip.append(all(".dot", rows[who])[0].cloneNode(), name);
    chip.className = `c${speakers[who].colour}`;
    return chip;
  }));
  wave.setAttribute("aria-valuetext", [clock(at), ...here.map((who) => names[who])].join(", "));
  if (now.length) select(now[0]);
}
function select(i) {
  turns[current].tabIndex = -1;
  current = i;
  turns[i].tabIndex = 0;
  const list = $("turns"), top = turns[i].offsetTop, height = turns[i].offsetHeight;
  if (top < list.scrollTop || top + height > list.scrollTop + list.clientHeight) list.scrollTop = top - list.clientHeight / 3;
}
function step(forwards) {
  const i = forwards ? after(at + 0.02) : after(at - (audio.paused ? 0.02 : 0.6)) - 1;
  if (!segments[i]) return;
  const inList = $("turns").contains(document.activeElement);
  seek(segments[i].start);
  select(i);
  if (inList) turns[i].focus();
}

// Mouse and keys
const rows = all("[data-speaker]"), inputs = all(".who input"), names = speakers.map((s) => s.label);
const timeAt = (event) => {
  const box = wave.getBoundingClientRect();
  return ((event.clientX - box.left) / box.width) * seconds;
};
wave.onpointerdown = (event) => { if (event.pointerType === "mouse") wave.setPointerCapture(event.pointerId); };
wave.onpointermove = (event) => { if (wave.hasPointerCapture(event.pointerId) && event.buttons && event.pointerType === "mouse") seek(timeAt(event)); };
$("inner").onclick = (event) => {
  const block = event.target.closest(".seg");
  if (!block && !event.target.closest("#wave, .lane")) return;
  seek(block ? segments[block.dataset.i].start : timeAt(event));
  if (block) select(Number(block.dataset.i));
  play();
};
$("inner").onmouseover = ({ target }) => {
  const s = segments[target.dataset.i];
  if (s) target.title = `${names[s.speaker]}, ${clock(s.start)} to ${clock(end(s))}`;
};
for (const turn of turns) turn.onclick = () => { seek(segments[turn.dataset.i].start); play(); };
const keys = {
  " ": toggle, ArrowDown: () => step(true), ArrowUp: () => step(false), Home: () => seek(0), End: () => seek(seconds),
  ArrowLeft: (event) => seek(at - (event.shiftKey ? 1 : 5)), ArrowRight: (event) => seek(at + (event.shiftKey ? 1 : 5)),
  "+": () => zoomTo(zoom * 2), "=": () => zoomTo(zoom * 2), "-": () => zoomTo(zoom / 2), 0: () => zoomTo(1),
};
document.addEventListener("keydown", (event) => {
  const on = event.target, own = on.matches("input, select") || (event.key === " " && on.matches("button:not(#turns button)"));
  if (own || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key](event);
});
document.addEventListener("keyup", (event) => { // else a button of the list is pressed, too
  if (event.key === " " && event.target.matches("#turns button")) event.preventDefault();
});

// Names
inputs.forEach((input, who) => {
  input.oninput = () => {
    names[who] = input.value.trim() || speakers[who].label;
    for (const place of all(`[data-name="${who}"]`)) place.textContent = names[who];
    const lane = all(".lane", rows[who])[0];
    lane.setAttribute("aria-label", names[who] + lane.getAttribute("aria-label").slice(lane.dataset.cut ?? speakers[who].label.length));
    lane.dataset.cut = names[who].length;
    $("count").textContent = new Set(names).size;
    $("saved").textContent = "Names not saved";
    window.onbeforeunload = (event) => event.preventDefault();
    active = []; // so that its name is shown anew
    show(false);
  };
  input.onkeydown = (event) => { if (event.key === "Enter") input.blur(); };
});
// As to_rttm of formats.py writes it: blanks, as Python knows them, become underscores.
const field = (text) => text.split(/[\s\x1c-\x1f\x85]+/).filter(Boolean).join("_");
const rttm = () => segments.map((s) => `SPEAKER ${data.stem} 1 ${s.start.toFixed(3)} ${s.length.toFixed(3)} <NA> <NA> ` +
  `${field(names[s.speaker])} ${s.score === null ? "<NA>" : s.score.toFixed(4)} <NA>\n`).join("");
if ($("save")) $("save").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([rttm()], { type: "text/plain" }));
  link.download = `${data.stem}.rttm`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  $("saved").textContent = "Saved";
  window.onbeforeunload = null;
};

// The waveform: the upper half in the colour of who speaks first, the lower half of who speaks at the same time
const peaks = new Int8Array(bytes(data.peaks).buffer), count = peaks.length / 2, loudest = peaks.reduce((most, peak) => Math.max(most, Math.abs(peak)), 1);
const upper = new Int16Array(count).fill(-1), lower = new Int16Array(count).fill(-1);
for (const s of segments) {
  for (let i = Math.floor((s.start / seconds) * count); i < Math.min(Math.ceil((end(s) / seconds) * count), count); i++) {
    if (upper[i] < 0) upper[i] = lower[i] = s.speaker; else lower[i] = s.speaker;
  }
}
let zoom = 1;
const STEPS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200], PITCH = 3, AXIS = 22; // seconds; pixels
function draw() {
  const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
  const label = wave.previousElementSibling.offsetWidth * (getComputedStyle(wave.parentElement).gridTemplateColumns.includes(" ") ? 1 : 0);
  const width = scroller.clientWidth - label, height = wave.clientHeight, ratio = window.devicePixelRatio || 1;
  const whole = wave.clientWidth, left = scroller.scrollLeft, middle = (height - AXIS) / 2 + 2;
  scroller.style.setProperty("--view", `${scroller.clientWidth}px`);
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  canvas.style.width = `${width}px`;
  const pen = canvas.getContext("2d"), palette = speakers.map((s) => colour(`--c${s.colour}`)), nobody = colour("--wave");
  pen.scale(ratio, ratio);
  for (let bar = Math.floor(left / PITCH); bar * PITCH < Math.min(left + width, whole); bar++) {
    const first = Math.floor(((bar * PITCH) / whole) * count);
    const last = Math.min(count, Math.max(first + 1, Math.floor((((bar + 1) * PITCH) / whole) * count)));
    let low = 0, high = 0;
    for (let i = first; i < last; i++) { low = Math.min(low, peaks[2 * i]); high = Math.max(high, peaks[2 * i + 1]); }
    const x = bar * PITCH - left, scale = (middle - 6) / loudest, centre = Math.min((first + last) >> 1, count - 1);
    for (const [who, size] of [[upper[centre], -Math.max(high * scale, 0.75)], [lower[centre], Math.max(-low * scale, 0.75)]]) {
      pen.fillStyle = who < 0 ? nobody : palette[who];
      pen.fillRect(x, middle, PITCH - 1, size);
    }
  }
  const tick = STEPS.find((step) => (step / seconds) * whole >= 72) ?? STEPS.at(-1);
  pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  for (let i = Math.floor(((left / whole) * seconds) / tick); i * tick <= Math.min(((left + width) / whole) * seconds, seconds); i++) {
    const x = ((i * tick) / seconds) * whole - left, text = clock(i * tick).replace(/\.0$/, "");
    pen.fillStyle = colour("--line");
    pen.fillRect(x, height - AXIS, 1, 6);
    pen.fillStyle = colour("--soft");
    if (x + pen.measureText(text).width + 4 < width) pen.fillText(text, x + 4, height - 7);
  }
}
const again = () => requestAnimationFrame(draw);
function zoomTo(wanted) {
  const label = $("inner").clientWidth - wave.clientWidth, view = scroller.clientWidth - label;
  zoom = Math.min(Math.max(wanted, 1), Math.max(1, Math.min(seconds / 5, 60000 / view)));
  $("inner").style.width = zoom > 1 ? `${label + view * zoom}px` : "";
  scroller.scrollLeft = (at / seconds) * view * zoom - view / 2;
  $("out").disabled = $("fit").disabled = zoom === 1;
  again();
}
function follow(share, jumped) { // by pages while it plays
  const view = scroller.clientWidth - ($("inner").clientWidth - wave.clientWidth), x = share * wave.clientWidth;
  if (x < scroller.scrollLeft || x > scroller.scrollLeft + view) scroller.scrollLeft = x - (jumped ? view / 2 : view / 10);
}
$("in").onclick = () => zoomTo(zoom * 2);
$("out").onclick = () => zoomTo(zoom / 2);
$("fit").onclick = () => zoomTo(1);
scroller.onscroll = again;
new ResizeObserver(() => zoomTo(zoom)).observe(scroller);
matchMedia("(prefers-color-scheme: dark)").onchange = again;
