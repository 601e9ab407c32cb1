// The images, with ground truth and detections as boxes over them.

const LAYERS = {
  object: {color: "#ffffff"},
  correct: {color: "#009e73"},
  ...KINDS,
};
const shown = {image: 0, layers: new Set(Object.keys(LAYERS))};

/** The boxes of an image at the selected score and class; mistakes come last. */
function boxesOf(image) {
  const score = scores[state.scoreIndex];
  const detections = image.detections.filter((box) => box.score >= score);
  const objects = image.objects.map((box) => ({...box, kind: box.covered_score < score ? "missed" : "object"}));
  const all = [...objects, ...detections].filter((box) => isSelected(box.label));
  return [...all.filter((box) => !(box.kind in KINDS)), ...mistakes(all).reverse()];
}

/** The mistakes among boxes: missed objects, then false detections in descending order of score. */
function mistakes(all) {
  const wrong = all.filter((box) => box.kind in KINDS);
  return wrong.sort((a, b) => (b.score ?? 1) - (a.score ?? 1));
}

function setUpImages() {
  for (const [kind, {color}] of Object.entries(LAYERS)) {
    const toggle = (event) => {
      if (event.target.checked) shown.layers.add(kind);
      else shown.layers.delete(kind);
      showImage();
    };
    const input = make("input", {type: "checkbox", checked: true, "data-layer": kind, onchange: toggle});
    at("layers").append(make("label", {}, input, swatch(kind), kind));
  }
  report.worst_images.forEach((image, i) => {
    const pick = () => {
      shown.image = i;
      showImage();
    };
    const thumb = make("img", {src: report.image_data[i], alt: ""});
    at("thumbs").append(make("button", {type: "button", onclick: pick}, thumb, make("span")));
  });
  at("thumbs").addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    const next = at("thumbs").children[shown.image + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
  });
}

function showImage() {
  const image = report.worst_images[shown.image];
  if (!image) return;
  [...at("thumbs").children].forEach((button, i) => {
    const {file_name} = report.worst_images[i];
    const number = mistakes(boxesOf(report.worst_images[i])).length;
    button.setAttribute("aria-pressed", String(i === shown.image));
    button.setAttribute("aria-label", `${file_name}: ${count(number, "mistake")}`);
    button.lastChild.textContent = number;
  });
  const pixels = make("img", {
    src: report.image_data[shown.image],
    alt: `${image.file_name} with objects and detections`,
    width: image.width,
    height: image.height,
  });
  const all = boxesOf(image);
  const drawn = all.filter((box) => shown.layers.has(box.kind));
  const elements = new Map(drawn.map((box) => [box, drawBox(box, image)]));
  at("viewed").replaceChildren(pixels, ...elements.values());
  at("caption").textContent = `${image.file_name}, ${image.width} x ${image.height} pixels`;
  showList(mistakes(all), elements);
}

/** A box in percent of the image, which may have any size on the screen. */
function drawBox({box: [x, y, w, h], kind, label, score}, image) {
  const {color} = LAYERS[kind];
  const position = [
    ["left", x / image.width],
    ["top", y / image.height],
    ["width", w / image.width],
    ["height", h / image.height],
  ].map(([side, ratio]) => `${side}: ${(100 * ratio).toFixed(3)}%`);
  const style = `${position.join("; ")}; border-color: ${color}`;
  const text = names[label] + (score === undefined ? "" : ` ${score.toFixed(2)}`);
  // Labels of correct detections would hide the image.
  const tag = kind in KINDS ? make("span", {style: `background: ${color}`}, text) : null;
  const inside = y < 0.05 * image.height ? "inside" : "";
  const left = x > 0.8 * image.width ? "left" : "";
  return make("div", {class: `box ${kind} ${inside} ${left}`, style, title: `${kind}: ${text}`}, tag);
}

/** List the mistakes of the image; pointing at one shows it alone. */
function showList(wrong, elements) {
  at("list-title").textContent = count(wrong.length, "mistake");
  const items = wrong.map((box) => {
    const point = (on) => () => {
      for (const [other, element] of elements) {
        element.classList.toggle("selected", on && other === box);
        element.classList.toggle("faded", on && other !== box);
      }
    };
    const button = make(
      "button",
      {type: "button", onfocus: point(true), onblur: point(false), onpointerenter: point(true), onpointerleave: point(false)},
      swatch(box.kind),
      make("span", {}, `${box.kind}: ${names[box.label]}`),
      make("span", {class: "quiet"}, box.score === undefined ? box.size : box.score.toFixed(2)),
    );
    return make("li", {}, button);
  });
  at("list").replaceChildren(...items);
}
