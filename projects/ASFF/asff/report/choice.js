// What the page shows, what is chosen, and small things that several sections need. All numbers come
// from `report`; nothing is measured here.

const report = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const names = report.classes.map((entry) => entry.name);
const places = report.at_scores.map((entry) => entry.score);
const ALL = -1;

// What is chosen: a class (its number or ALL), a place in `at_scores`, and a column to sort by.
const state = {label: ALL, place: places.indexOf(report.best_score), sort: null, down: true};

const counts = () => report.at_scores[state.place];
const chosen = (label) => state.label === ALL || state.label === label;
const sum = (values) => values.reduce((total, value) => total + value, 0);
const tenths = (value) => (value === null ? "–" : value.toFixed(1));
const percent = (share) => (share === null ? "–" : (100 * share).toFixed(1));
/** Of a value for each class, over the classes that have objects, as COCO's AP. */
const mean = (values) => {
  const known = values.filter((value, label) => value !== null && report.classes[label].truths);
  return known.length ? sum(known) / known.length : null;
};
const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
