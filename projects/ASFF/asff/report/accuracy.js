// Accuracy: the table of classes, and precision over recall.

const COLUMNS = {
  class: (label) => names[label],
  objects: (label) => report.classes[label].objects,
  AP: (label) => report.classes[label].AP,
  AP50: (label) => report.classes[label].AP50,
  precision: (label) => counts().precision[label],
  recall: (label) => counts().recall[label],
};

function showClasses() {
  const heads = Object.keys(COLUMNS).map((name) => {
    const sorted = state.sort === name ? (state.down ? "descending" : "ascending") : undefined;
    const arrow = sorted ? (state.down ? " ↓" : " ↑") : "";
    const sort = () => {
      select({sort: name, down: state.sort === name ? !state.down : name !== "class"});
      at("classes").querySelector(`[data-column="${name}"]`).focus();
    };
    const button = make("button", {type: "button", onclick: sort, "data-column": name}, name + arrow);
    return make("th", {scope: "col", "aria-sort": sorted}, button);
  });
  const rows = orderedLabels().map((label) => {
    const pick = () => {
      select({label: state.label === label ? ALL : label});
      at("classes").querySelector(`[data-label="${label}"]`).focus();
    };
    const pressed = String(state.label === label);
    const name = make(
      "button",
      {type: "button", onclick: pick, "data-label": label, "aria-pressed": pressed},
      names[label],
    );
    const {objects, AP, AP50} = report.classes[label];
    return classRow(name, objects, AP, AP50, counts().precision[label], counts().recall[label], state.label === label);
  });
  const {AP, AP50} = report.AP;
  const all = classRow("Mean of classes", report.objects, AP, AP50, mean(counts().precision), mean(counts().recall));
  at("classes").replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, all, ...rows));
}

function classRow(name, objects, AP, AP50, precision, recall, isSelectedRow = false) {
  return make(
    "tr",
    {class: isSelectedRow && "selected"},
    make("th", {scope: "row"}, name),
    make("td", {}, objects.toLocaleString("en")),
    make("td", {}, tenths(AP)),
    make("td", {}, tenths(AP50)),
    make("td", {}, percent(precision)),
    make("td", {}, percent(recall)),
  );
}

/** Labels in the order of the selected column; those without a value come last. */
function orderedLabels() {
  const labels = names.map((_, label) => label);
  if (state.sort === null) return labels;
  const value = COLUMNS[state.sort];
  const sign = state.down ? -1 : 1;
  return labels.sort((a, b) => {
    const [first, second] = [value(a), value(b)];
    if (first === null || second === null) return (first === null) - (second === null);
    return sign * (typeof first === "string" ? first.localeCompare(second) : first - second);
  });
}

const precisionRecall = new LineChart(at("precision-recall"), "Precision");

function showPrecisionRecall() {
  const {recall, curves} = report.precision_curves;
  const lines = curves.flatMap((curve, i) => {
    const precision = state.label === ALL ? curve.mean : curve.classes[state.label];
    if (!precision) return [];
    // COCO's precision is 0 beyond the highest recall.
    const points = recall.map((x, k) => [x, precision[k]]).filter((point) => point[1] > 0);
    return [{name: `IoU ${curve.IoU}`, points, style: i + 1}];
  });
  const pick = (values) => (state.label === ALL ? mean(values) : values[state.label]);
  const dot = [pick(counts().recall), pick(counts().precision)];
  precisionRecall.show({
    title: `Precision over recall: ${state.label === ALL ? "mean of classes" : names[state.label]}`,
    lines,
    label: "recall",
    xEnds: [0, 1],
    yEnds: [0, 1],
    dot: dot.includes(null) ? null : dot,
    format: (value) => value.toFixed(2),
    quiet: true,
  });
}
