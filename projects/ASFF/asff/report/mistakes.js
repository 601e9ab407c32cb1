// What goes wrong: kinds of mistakes, and confusions.

const KINDS = {
  missed: {color: "#f0e442", text: "no detection explains it"},
  duplicate: {color: "#56b4e9", text: "on an object already found"},
  "wrong class": {color: "#cc79a7", text: "on another class’s object"},
  "poor box": {color: "#e69f00", text: `IoU of only ${report.poor_IoU} to ${report.IoU}`},
  background: {color: "#d55e00", text: "on nothing of the kind"},
};

const MATRIX_CLASSES = 20; // with more of them, the worst confusions are listed

function showMistakes() {
  const rows = Object.keys(KINDS).map((kind) => {
    const bySize = counts().mistakes[kind].map((classes) => sum(classes.filter((_, label) => chosen(label))));
    return {kind, bySize, total: sum(bySize)};
  });
  const most = Math.max(...rows.map((row) => row.total), 1);
  const heads = report.sizes.map((size) =>
    make("th", {scope: "col"}, make("span", {class: `swatch ${size}`}), size),
  );
  const head = make("tr", {}, make("td"), ...heads, make("th", {scope: "col"}, "all"), make("th", {class: "bar"}));
  const body = rows.map(({kind, bySize, total}) => {
    const parts = bySize.map((number, i) =>
      make("span", {class: report.sizes[i], style: `width: ${(100 * number) / most}%`}),
    );
    return make(
      "tr",
      {"data-kind": kind},
      make("th", {scope: "row"}, swatch(kind), capital(kind), make("small", {}, KINDS[kind].text)),
      ...bySize.map((number) => make("td", {}, number.toLocaleString("en"))),
      make("td", {}, make("b", {}, total.toLocaleString("en"))),
      make("td", {class: "bar", "aria-hidden": "true"}, make("div", {class: "stack"}, ...parts)),
    );
  });
  at("kinds").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
}

function swatch(kind) {
  return make("span", {class: "swatch", style: `background: ${LAYERS[kind].color}`, "aria-hidden": "true"});
}

function showConfusion() {
  const all = [...names, "background"];
  if (names.length <= MATRIX_CLASSES) showMatrix(all);
  else showWorstConfusions(all);
  at("matrix-text").hidden = names.length > MATRIX_CLASSES;
}

function showMatrix(all) {
  at("confusion").className = `matrix ${all.length > 8 ? "many" : ""}`;
  const table = all.map(() => all.map(() => 0));
  for (const [there, detected, number] of counts().confusion) table[there][detected] = number;
  const heads = all.map((name) => make("th", {scope: "col", title: name}, make("span", {}, name)));
  const rows = table.map((row, there) => {
    const total = sum(row);
    const cells = row.map((number, detected) => {
      if (there === names.length && detected === names.length) return make("td");
      const faded = !chosen(there) && !chosen(detected) ? "faded" : "";
      const title = `${all[there]} taken for ${all[detected]}: ${number} of ${total}`;
      if (!number) return make("td", {class: `zero ${faded}`, title}, "0");
      // Never so strong that the number could not be read.
      const style = `background: rgba(0, 114, 178, ${(0.08 + (0.6 * number) / total).toFixed(3)})`;
      return make("td", {class: faded, style, title}, number.toLocaleString("en"));
    });
    const head = make("th", {scope: "row", title: all[there]}, make("span", {}, all[there]));
    return make("tr", {}, head, ...cells);
  });
  at("confusion").replaceChildren(
    make("thead", {}, make("tr", {}, make("td"), ...heads)),
    make("tbody", {}, ...rows),
  );
}

/** In place of a matrix that no screen could hold. */
function showWorstConfusions(all) {
  const wrong = counts().confusion.filter(
    ([there, detected]) => there !== detected && (chosen(there) || chosen(detected)),
  );
  const rows = wrong.sort((a, b) => b[2] - a[2]).slice(0, MATRIX_CLASSES).map(([there, detected, number]) =>
    make(
      "tr",
      {},
      make("th", {scope: "row"}, all[there]),
      make("th", {scope: "row"}, all[detected]),
      make("td", {}, number.toLocaleString("en")),
    ),
  );
  const heads = ["what is there", "what it is taken for", "times"].map((text) => make("th", {scope: "col"}, text));
  at("confusion").className = "list";
  at("confusion").replaceChildren(
    make("thead", {}, make("tr", {}, ...heads)),
    make("tbody", {}, ...rows),
  );
}
