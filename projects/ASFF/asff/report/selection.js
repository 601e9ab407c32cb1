// The data, the selection of the user, and helpers of several sections; all numbers are `report`'s.

const report = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const names = report.classes.map((each) => each.name);
const scores = report.at_scores.map((each) => each.score);
const ALL = -1;

// Selected class (its label or ALL), index of the score threshold, and column to sort by.
const state = {label: ALL, scoreIndex: scores.indexOf(report.best_score), sort: null, down: true};

const counts = () => report.at_scores[state.scoreIndex];
const isSelected = (label) => state.label === ALL || state.label === label;
const sum = (values) => values.reduce((total, value) => total + value, 0);
const tenths = (value) => (value === null ? "–" : value.toFixed(1));
const percent = (ratio) => (ratio === null ? "–" : (100 * ratio).toFixed(1));
/** Mean of the values of the classes that have objects, like COCO's AP. */
const mean = (values) => {
  const known = values.filter((value, label) => value !== null && report.classes[label].objects);
  return known.length ? sum(known) / known.length : null;
};
const thousands = (number) => number.toLocaleString("en");
const count = (number, word) => `${thousands(number)} ${word}${number === 1 ? "" : "s"}`;
const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** Create a row of a table: heads and cells. */
function makeRow(heads, cells, attributes = {}) {
  const makeHead = (head) => make("th", {scope: "row"}, head);
  return make("tr", attributes, ...heads.map(makeHead), ...cells.map((cell) => make("td", {}, cell)));
}

/** Replace the heads and rows of a table. */
function fillTable(id, heads, rows) {
  at(id).replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
}
