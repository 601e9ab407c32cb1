// Kinds of mistakes (named as by TIDE), and the confusion matrix.

const KINDS = {
  missed: {color: "#f0e442", text: "an object without detection"},
  classification: {color: "#cc79a7", text: "wrong class"},
  localization: {color: "#e69f00", text: `IoU ${report.background_IoU} to ${report.foreground_IoU}`},
  duplicate: {color: "#56b4e9", text: "of an object already detected"},
  background: {color: "#d55e00", text: "no such object there"},
};

const MATRIX_CLASSES = 20; // with more classes, the most frequent confusions are listed

function showMistakes() {
  const rows = Object.keys(KINDS).map((kind) => {
    const bySize = counts().mistakes[kind].map((classes) => sum(classes.filter((_, label) => isSelected(label))));
    return {kind, bySize, total: sum(bySize)};
  });
  const most = Math.max(...rows.map((row) => row.total), 1);
  const heads = report.sizes.map((size) =>
    make("th", {scope: "col"}, make("span", {class: `swatch ${size}`}), size),
  );
  heads.push(make("th", {scope: "col"}, "all"), make("th", {class: "bar"}));
  const body = rows.map(({kind, bySize, total}) => {
    const parts = bySize.map((number, i) =>
      make("span", {class: report.sizes[i], style: `width: ${(100 * number) / most}%`}),
    );
    const head = make("span", {}, swatch(kind), capital(kind), make("small", {}, KINDS[kind].text));
    const row = makeRow([head], [...bySize.map(thousands), make("b", {}, thousands(total))], {"data-kind": kind});
    row.append(make("td", {class: "bar", "aria-hidden": "true"}, make("div", {class: "stack"}, ...parts)));
    return row;
  });
  fillTable("kinds", [make("td"), ...heads], body);
}

function swatch(kind) {
  return make("span", {class: "swatch", style: `background: ${LAYERS[kind].color}`, "aria-hidden": "true"});
}

function showConfusion() {
  const all = [...names, "background"];
  if (names.length <= MATRIX_CLASSES) showMatrix(all);
  else listConfusions(all);
  at("matrix-text").hidden = names.length > MATRIX_CLASSES;
}

function showMatrix(all) {
  at("confusion").className = `matrix ${all.length > 8 ? "many" : ""}`;
  const table = all.map(() => all.map(() => 0));
  for (const [actual, detected, number] of counts().confusion) table[actual][detected] = number;
  const heads = all.map((name) => make("th", {scope: "col", title: name}, make("span", {}, name)));
  const rows = table.map((row, actual) => {
    const total = sum(row);
    const cells = row.map((number, detected) => {
      if (actual === names.length && detected === names.length) return make("td");
      const faded = !isSelected(actual) && !isSelected(detected) ? "faded" : "";
      const title = `${all[actual]} detected as ${all[detected]}: ${number} of ${total}`;
      if (!number) return make("td", {class: `zero ${faded}`, title}, "0");
      // Light enough for the number to be legible.
      const style = `background: rgba(0, 114, 178, ${(0.08 + (0.6 * number) / total).toFixed(3)})`;
      return make("td", {class: faded, style, title}, thousands(number));
    });
    const head = make("th", {scope: "row", title: all[actual]}, make("span", {}, all[actual]));
    return make("tr", {}, head, ...cells);
  });
  fillTable("confusion", [make("td"), ...heads], rows);
}

/** List the confusions instead of a matrix that is too large for a screen. */
function listConfusions(all) {
  const wrong = counts().confusion.filter(
    ([actual, detected]) => actual !== detected && (isSelected(actual) || isSelected(detected)),
  );
  const worst = wrong.sort((a, b) => b[2] - a[2]).slice(0, MATRIX_CLASSES);
  const rows = worst.map(([actual, detected, number]) =>
    makeRow([all[actual], all[detected]], [thousands(number)]),
  );
  const heads = ["ground truth", "detected as", "count"].map((text) => make("th", {scope: "col"}, text));
  at("confusion").className = "list";
  fillTable("confusion", heads, rows);
}
