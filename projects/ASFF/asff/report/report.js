// Head, controls, training curves and run; starts the page.

function tile(name, value, unit = "") {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value, unit && make("small", {}, ` ${unit}`)));
}

function showHead() {
  at("run").textContent = report.run;
  at("facts").textContent = [
    report.dataset,
    count(report.images, "image"),
    count(report.objects, "object"),
    count(report.detections, "detection"),
    `evaluated ${report.evaluated}`,
  ].join(" · ");
  const titles = {AP: "AP", AP50: "AP50", AP75: "AP75", APs: "AP small", APm: "AP medium", APl: "AP large"};
  at("metrics").append(...Object.entries(titles).map(([key, name]) => tile(name, tenths(report.AP[key]))));
  document.querySelectorAll(".iou").forEach((element) => element.append(report.foreground_IoU));
  at("images").hidden = !report.worst_images.length;
  at("fusion").hidden = !report.fusion_maps.length;
  at("training").hidden = !report.training.length;
  const sections = [...document.querySelectorAll("section")].filter((section) => !section.hidden);
  at("nav").append(
    ...sections.map((section) =>
      make("a", {href: `#${section.id}`}, section.id === "details" ? "Run" : capital(section.id)),
    ),
  );
}

function setUpControls() {
  const options = [[ALL, "All"], ...names.map((name, label) => [label, name])];
  at("class").append(...options.map(([label, name]) => make("option", {value: label}, name)));
  at("class").addEventListener("change", (event) => select({label: Number(event.target.value)}));
  at("score").max = scores.length - 1;
  at("score").addEventListener("input", (event) => select({scoreIndex: Number(event.target.value)}));
  at("best").textContent = `Best F1: ${report.best_score.toFixed(2)}`;
  at("best").addEventListener("click", () => select({scoreIndex: scores.indexOf(report.best_score)}));
  at("controls").addEventListener("submit", (event) => event.preventDefault());
}

/** Change the selection, and update everything that depends on it. */
function select(changes) {
  Object.assign(state, changes);
  at("class").value = state.label;
  at("score").value = state.scoreIndex;
  const score = scores[state.scoreIndex].toFixed(2);
  at("score-value").textContent = score;
  at("score").setAttribute("aria-valuetext", score);
  showClasses();
  showPrecisionRecall();
  showMistakes();
  showConfusion();
  showImage();
}

function showTraining() {
  for (const {title, lines} of report.training) {
    const host = make("div", {class: "chart"});
    at("curves").append(host);
    const options = {title, lines, label: "iteration"};
    if (title.startsWith("AP")) options.format = (value) => value.toFixed(1);
    const log = make("input", {type: "checkbox"});
    const chart = new LineChart(host, title === "Loss" ? make("label", {class: "quiet"}, log, "log scale") : null);
    log.addEventListener("change", () => chart.show({...options, log: log.checked}));
    chart.show(options);
  }
}

function showRun() {
  const {training, inference} = report.speed;
  if (training) {
    at("speed").append(
      tile("training, median", short(training.iteration), "s / iteration"),
      tile("waiting for data", percent(training.data / training.iteration), "%"),
    );
  }
  if (inference) {
    at("speed").append(
      tile(`inference${inference.devices > 1 ? `, each of ${inference.devices} devices` : ""}`,
        short(1000 * inference.compute), "ms / image"),
      tile("evaluation, with data loading", short(1000 * inference.total), "ms / image"),
    );
  }
  at("speed").hidden = !training && !inference;
  for (const [id, pairs] of [["keys", report.changed_keys], ["environment", report.environment]]) {
    at(id).append(make("tbody", {}, ...pairs.map(([key, value]) => makeRow([key], [value]))));
  }
  at("environment-box").hidden = !report.environment.length;
  at("config").textContent = report.config;
}

function showMaps() {
  for (const {caption, image} of report.fusion_maps) {
    const scroll = make("figure", {tabindex: 0}, make("img", {src: image, alt: `Fusion maps of ${caption}`}));
    scroll.append(make("figcaption", {class: "quiet"}, caption));
    at("maps").append(scroll);
  }
}

showHead();
setUpControls();
setUpImages();
select({});
showMaps();
showTraining();
showRun();
