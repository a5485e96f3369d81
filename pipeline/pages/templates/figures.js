"use strict";
// Draws the JSON of each <figure class="plot"> with plotly, in the colours of the style sheet, and again when they change.
const scheme = matchMedia("(prefers-color-scheme: dark)");

function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, grid, card] = ["--ink", "--soft", "--grid", "--card"].map((name) => style.getPropertyValue(name).trim());
  const copy = structuredClone(layout);
  Object.assign(copy, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true });
  copy.font = { ...copy.font, color: ink, family: getComputedStyle(document.body).fontFamily };
  copy.hoverlabel = { bgcolor: card, bordercolor: soft, font: { color: ink } };
  for (const name of Object.keys(copy).filter((key) => /^[xy]axis\d*$/.test(key))) {
    Object.assign(copy[name], { gridcolor: grid, linecolor: soft, zerolinecolor: soft, tickcolor: soft });
  }
  return copy;
}

function draw(figure) {
  const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
  const config = { displayModeBar: false, responsive: true };
  return Plotly.react(figure.querySelector(".drawing"), data, themed(layout), config);
}

async function inflate(element) {
  const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

async function drawAll() {
  const figures = [...document.querySelectorAll("figure.plot")];
  try {
    await inflate(document.getElementById("plotly"));
    await Promise.all(figures.map(draw));
    document.body.dataset.drawn = figures.length;
    scheme.addEventListener("change", () => figures.forEach(draw));
  } catch (error) {
    for (const figure of figures) {
      const text = "This figure needs a browser of 2023 or later; its values are in the tables.";
      figure.querySelector(".drawing").replaceChildren(Object.assign(document.createElement("p"), { className: "missing", textContent: text }));
    }
    throw error;
  }
}
drawAll();
