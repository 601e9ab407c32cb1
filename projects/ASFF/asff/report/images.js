// The images: truth and detections as boxes over them.

const LAYERS = {
  object: {color: "#ffffff"},
  correct: {color: "#009e73"},
  ...KINDS,
};
const shown = {image: 0, layers: new Set(Object.keys(LAYERS))};

/** What there is to draw in an image, at the chosen score and class; mistakes come last. */
function marks(image) {
  const score = places[state.place];
  const detections = image.detections.filter((box) => box.score >= score);
  const truths = image.truths.map((box) => ({...box, kind: box.explained < score ? "missed" : "object"}));
  const all = [...truths, ...detections].filter((box) => chosen(box.label));
  return [...all.filter((box) => !(box.kind in KINDS)), ...mistakes(all).reverse()];
}

/** Of these marks the mistakes: what is missed, then what is false, the most certain first. */
function mistakes(all) {
  const wrong = all.filter((mark) => mark.kind in KINDS);
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
    const picture = make("img", {src: report.pictures[i], alt: ""});
    at("thumbs").append(make("button", {type: "button", onclick: pick}, picture, make("span")));
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
    const number = mistakes(marks(report.worst_images[i])).length;
    button.setAttribute("aria-pressed", String(i === shown.image));
    button.setAttribute("aria-label", `${file_name}: ${count(number, "mistake")}`);
    button.lastChild.textContent = number;
  });
  const picture = make("img", {
    src: report.pictures[shown.image],
    alt: `${image.file_name} with objects and detections`,
    width: image.width,
    height: image.height,
  });
  const all = marks(image);
  const drawn = all.filter((mark) => shown.layers.has(mark.kind));
  const elements = new Map(drawn.map((mark) => [mark, drawBox(mark, image)]));
  at("picture").replaceChildren(picture, ...elements.values());
  at("caption").textContent = `${image.file_name}, ${image.width} x ${image.height} pixels`;
  showList(mistakes(all), elements);
}

/** A box in percent of the picture, which may be of any size on the screen. */
function drawBox({box: [x, y, w, h], kind, label, score}, image) {
  const {color} = LAYERS[kind];
  const place = [
    ["left", x / image.width],
    ["top", y / image.height],
    ["width", w / image.width],
    ["height", h / image.height],
  ].map(([side, share]) => `${side}: ${(100 * share).toFixed(3)}%`);
  const style = `${place.join("; ")}; border-color: ${color}`;
  const text = names[label] + (score === undefined ? "" : ` ${score.toFixed(2)}`);
  // Labels of what is right would hide the picture.
  const tag = kind in KINDS ? make("span", {style: `background: ${color}`}, text) : null;
  const inside = y < 0.05 * image.height ? "inside" : "";
  const left = x > 0.8 * image.width ? "left" : "";
  return make("div", {class: `box ${kind.replace(" ", "-")} ${inside} ${left}`, style, title: `${kind}: ${text}`}, tag);
}

/** The mistakes of the image; to point at one shows it alone. */
function showList(wrong, elements) {
  at("list-title").textContent = count(wrong.length, "mistake");
  const items = wrong.map((mark) => {
    const point = (on) => () => {
      for (const [other, element] of elements) {
        element.classList.toggle("chosen", on && other === mark);
        element.classList.toggle("faded", on && other !== mark);
      }
    };
    const button = make(
      "button",
      {type: "button", onfocus: point(true), onblur: point(false), onpointerenter: point(true), onpointerleave: point(false)},
      swatch(mark.kind),
      make("span", {}, `${mark.kind}: ${names[mark.label]}`),
      make("span", {class: "quiet"}, mark.score === undefined ? mark.size : mark.score.toFixed(2)),
    );
    return make("li", {}, button);
  });
  at("list").replaceChildren(...items);
}
