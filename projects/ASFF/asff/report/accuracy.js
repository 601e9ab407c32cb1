// Accuracy: the table of classes, and precision over recall.

// Columns of the table: the value of a class, that of all classes, and the format.
const COLUMNS = {
  class: {of: (label) => names[label], all: () => "Mean of classes", format: String},
  objects: {of: (label) => report.classes[label].objects, all: () => report.objects, format: thousands},
  AP: {of: (label) => report.classes[label].AP, all: () => report.AP.AP, format: tenths},
  AP50: {of: (label) => report.classes[label].AP50, all: () => report.AP.AP50, format: tenths},
  precision: {of: (label) => counts().precision[label], all: () => mean(counts().precision), format: percent},
  recall: {of: (label) => counts().recall[label], all: () => mean(counts().recall), format: percent},
};

function showClasses() {
  const heads = Object.keys(COLUMNS).map((name) => {
    const isSorted = state.sort === name;
    const order = isSorted ? (state.down ? "descending" : "ascending") : undefined;
    const changes = {sort: name, down: isSorted ? !state.down : name !== "class"};
    const text = name + (isSorted ? (state.down ? " ↓" : " ↑") : "");
    return make("th", {scope: "col", "aria-sort": order}, classButton(text, changes, {"data-column": name}));
  });
  const rows = orderedLabels().map((label) => {
    const isPicked = state.label === label;
    const attributes = {"data-label": label, "aria-pressed": String(isPicked)};
    const button = classButton(names[label], {label: isPicked ? ALL : label}, attributes);
    return classRow(button, (column) => column.of(label), {class: isPicked && "selected"});
  });
  fillTable("classes", heads, [classRow(COLUMNS.class.all(), (column) => column.all()), ...rows]);
}

/** Create a button of the table that changes the selection, and keeps the focus. */
function classButton(text, changes, attributes) {
  const [[name, value]] = Object.entries(attributes);
  const onclick = () => {
    select(changes);
    at("classes").querySelector(`[${name}="${value}"]`).focus();
  };
  return make("button", {type: "button", onclick, ...attributes}, text);
}

function classRow(head, value, attributes) {
  const [, ...columns] = Object.values(COLUMNS);
  return makeRow([head], columns.map((column) => column.format(value(column))), attributes);
}

/** Labels in the order of the selected column; those without a value come last. */
function orderedLabels() {
  const labels = names.map((_, label) => label);
  if (state.sort === null) return labels;
  const value = COLUMNS[state.sort].of;
  const sign = state.down ? -1 : 1;
  return labels.sort((a, b) => {
    const [first, second] = [value(a), value(b)];
    if (first === null || second === null) return (first === null) - (second === null);
    return sign * (typeof first === "string" ? first.localeCompare(second) : first - second);
  });
}

const precisionRecall = new LineChart(at("precision-recall"));

function showPrecisionRecall() {
  const {recall, curves} = report.precision_curves;
  const lines = curves.flatMap((curve, i) => {
    const precision = state.label === ALL ? curve.mean : curve.classes[state.label];
    if (!precision) return [];
    // COCO's precision is 0 beyond the highest recall.
    const points = recall.map((x, k) => [x, precision[k]]).filter((point) => point[1] > 0);
    return [{name: `IoU ${curve.IoU}`, points, style: i + 1}];
  });
  const value = state.label === ALL ? "all" : "of";
  const dot = [COLUMNS.recall, COLUMNS.precision].map((column) => column[value](state.label));
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
