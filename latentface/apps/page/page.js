// The page keeps the chosen file and the last answer; the server keeps nothing.

const by = (id) => document.getElementById(id);
const COLOURS = ["#0072b2", "#56b4e9", "#009e73", "#d55e00", "#cc79a7"]; // of the five landmarks
const SVG = "http://www.w3.org/2000/svg";

let about = { codecs: [], largest: 0, examples: 0 };
let chosen = null; // { name, content: Blob }
let answer = null; // of /api/look
let asking = null; // AbortController of the question under way

const codec = () => about.codecs.find((one) => one.name === by("codec").value);
const rate = () => codec().rates[Number(by("rate").value)];
const confidence = () => Number(by("confidence").value);
const shownFaces = () => (answer ? answer.faces.filter((face) => face.score >= confidence()) : []);

function element(name, attributes = {}, text = "") {
  const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function say(text) { by("status").textContent = text; }

function complain(text) {
  by("error").textContent = text;
  by("error").hidden = !text;
}

// ---- asking

async function choose(name, content) {
  chosen = { name, content };
  if (content.size > about.largest) {
    complain(`${name}: ${Math.ceil(content.size / 1e6)} MB; files of at most ${about.largest / 1e6} MB are taken here.`);
    say("Nothing was sent.");
    return;
  }
  takeRate(name);
  await look();
}

// latent_75.npy says its rate.
function takeRate(name) {
  const place = codec().rates.indexOf(Number(/^latent_(\d+)\.npy$/.exec(name)?.[1]));
  if (place < 0) return;
  by("rate").value = place;
  showRate();
}

async function look() {
  if (!chosen || chosen.content.size > about.largest) return;
  asking?.abort();
  const question = (asking = new AbortController());
  say(`Looking at ${chosen.name} …`);
  complain("");
  by("stage").classList.add("waiting");
  try {
    const query = new URLSearchParams({ codec: codec().name, rate: rate() });
    const reply = await fetch(`/api/look?${query}`, {
      method: "POST", body: chosen.content, headers: { "X-Name": encodeURIComponent(chosen.name) },
      signal: question.signal,
    });
    const found = await reply.json();
    if (!reply.ok) throw new Error(found.error);
    answer = found;
    show();
  } catch (error) {
    if (error.name === "AbortError") return; // a newer question is under way
    const gone = error instanceof TypeError || error instanceof SyntaxError;
    complain(gone ? "The server does not answer. Is latentface serve still running?" : error.message);
    say("Nothing to show.");
  } finally {
    if (asking === question) by("stage").classList.remove("waiting");
  }
}

// ---- showing

function show() {
  by("seen").hidden = false;
  by("picture").src = answer.picture;
  by("picture-note").textContent = {
    decoded: `The picture as ${answer.codec} decodes it at rate ${answer.rate}.`,
    preview: "A preview of the latent, by one linear map: this server was started without the codec's networks.",
    channels: "The latent's three strongest channels as colours: this server cannot decode it.",
  }[answer.seen_as];
  by("boxes").setAttribute("viewBox", `0 0 ${answer.width} ${answer.height}`);
  showTimes();
  showBits();
  showChannels();
  by("save-json").disabled = by("save-png").disabled = false;
  draw();
}

function draw() {
  by("confidence-shown").textContent = confidence().toFixed(2);
  if (!answer) return;
  const faces = shownFaces();
  const unit = answer.width / by("stage").clientWidth || 1; // picture pixels per pixel of the page
  by("boxes").replaceChildren(...faces.toReversed().map((face) => drawFace(face, unit)));
  by("picture").alt = `${answer.name} with ${count(faces.length)}`;
  say(`${count(faces.length)} in ${answer.name}, confidence ${confidence().toFixed(2)} and more`);
  by("faces").tBodies[0].replaceChildren(...faces.map((face) => row([face.score.toFixed(2), ...face.box.map((v) => v.toFixed(1))])));
}

const count = (number) => (number === 1 ? "1 face" : `${number} faces`);

function drawFace(face, unit) {
  const [x, y, right, bottom] = face.box;
  const group = element("svg:g", { class: "face", "data-score": face.score });
  for (const kind of ["rim", "box"]) group.append(element("svg:rect", { class: kind, x, y, width: right - x, height: bottom - y }));
  if (by("show-landmarks").checked && face.landmarks && right - x > 20 * unit) {
    const radius = Math.max(1.5 * unit, (right - x) / 30);
    face.landmarks.forEach(([cx, cy], n) => group.append(element("svg:circle", { cx, cy, r: radius, fill: COLOURS[n] })));
  }
  if (by("show-scores").checked && bottom - y > 16 * unit) {
    const size = 12 * unit;
    const top = y > 1.3 * size ? y - 1.3 * size : bottom;
    group.append(element("svg:rect", { class: "plate", x, y: top, width: 2.6 * size, height: 1.3 * size }));
    group.append(element("svg:text", { x: x + 0.2 * size, y: top + size, "font-size": size }, face.score.toFixed(2)));
  }
  return group;
}

function row(cells) {
  const made = element("tr");
  cells.forEach((cell, n) => made.append(element(n ? "td" : "th", n ? {} : { scope: "row" }, String(cell))));
  return made;
}

function showTimes() {
  const { detect, decode, pixel_detect: pixels, encode } = answer.milliseconds;
  const gmac = (value) => (value == null ? "–" : value.toFixed(1));
  const rows = [["latent → faces", detect.toFixed(0), gmac(answer.gmac.latent)]];
  if (decode != null) rows.push(["decoding", decode.toFixed(0), "–"]);
  rows.push(["pixels → faces, the same detector", pixels.toFixed(0), gmac(answer.gmac.pixels)]);
  if (decode != null) rows.push(["decode and detect ÷ latent → faces", `${((decode + pixels) / detect).toFixed(1)} ×`, ""]);
  if (encode != null) rows.push(["(encoding the photograph)", encode.toFixed(0), ""]);
  by("times").tBodies[0].replaceChildren(...rows.map(row));
}

function showBits() {
  const shape = answer.shape.join(" × ");
  by("bits").textContent = answer.bits == null
    ? `A latent of ${shape} numbers. Its file does not say how many bits it took.`
    : `${answer.bpp.toFixed(3)} bits per pixel, ${(answer.bits / 8000).toFixed(1)} kB: a latent of ${shape} numbers.`;
}

function showChannels() {
  by("channels").replaceChildren(...answer.channels.map((one) => {
    const item = element("li");
    item.append(element("img", { src: one.picture, alt: `channel ${one.channel}` }));
    item.append(element("span", {}, `channel ${one.channel}, deviation ${one.deviation}`));
    return item;
  }));
}

// ---- saving

function save(name, blob) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function saveJson() {
  const { codec, rate, width, height, bpp, name } = answer;
  const content = { name, codec, rate, picture_width: width, picture_height: height, bpp, confidence: confidence(), faces: shownFaces() };
  save(`${name}.json`, new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
}

function savePng() {
  const canvas = element("canvas", { width: answer.width, height: answer.height });
  const pen = canvas.getContext("2d");
  pen.drawImage(by("picture"), 0, 0, answer.width, answer.height);
  for (const { box: [x, y, right, bottom], landmarks } of shownFaces().toReversed()) {
    for (const [colour, width] of [["#000", 4], ["#e69f00", 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.strokeRect(x, y, right - x, bottom - y);
    }
    if (!by("show-landmarks").checked) continue;
    (landmarks ?? []).forEach(([cx, cy], n) => {
      pen.fillStyle = COLOURS[n];
      pen.beginPath();
      pen.arc(cx, cy, Math.max(1.5, (right - x) / 30), 0, 2 * Math.PI);
      pen.fill();
    });
  }
  canvas.toBlob((blob) => save(`${answer.name}.png`, blob));
}

// ---- beginning

function changeCodec() {
  const { rates, encodes } = codec();
  const before = rates.indexOf(Number(by("rate-shown").textContent));
  by("rate").max = rates.length - 1;
  by("rate").value = before >= 0 ? before : Math.floor(rates.length / 2);
  by("rate-marks").replaceChildren(...rates.map((one, n) => element("option", { value: n, label: one })));
  by("codec-hint").textContent = encodes ? "" : "Latents only: to encode photographs, start the server with --codec_weights.";
  showRate();
}

function showRate() {
  by("rate-shown").textContent = rate();
  by("rate").setAttribute("aria-valuetext", `rate ${rate()}`);
}

function listen() {
  by("file").addEventListener("change", ({ target }) => target.files[0] && choose(target.files[0].name, target.files[0]));
  by("codec").addEventListener("change", () => { changeCodec(); look(); });
  by("rate").addEventListener("input", showRate);
  by("rate").addEventListener("change", look);
  for (const id of ["confidence", "show-landmarks", "show-scores"]) by(id).addEventListener("input", draw);
  by("save-json").addEventListener("click", saveJson);
  by("save-png").addEventListener("click", savePng);
  window.addEventListener("resize", draw);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      by("drop").classList.toggle("over", kind === "dragover");
      const file = kind === "drop" && event.dataTransfer.files[0];
      if (file) choose(file.name, file);
    });
  }
}

function offerExamples() {
  for (let number = 0; number < about.examples; number++) {
    const button = element("button", { type: "button" }, `Drawn picture ${number + 1}`);
    button.addEventListener("click", async () => {
      const reply = await fetch(`/api/example/${number}`);
      choose(`drawn_${number + 1}.png`, await reply.blob());
    });
    by("examples").append(button);
  }
}

about = await (await fetch("/api/about")).json();
by("codec").replaceChildren(...about.codecs.map(({ name }) => element("option", { value: name }, name)));
offerExamples();
changeCodec();
draw();
listen();
document.body.dataset.ready = "yes";
