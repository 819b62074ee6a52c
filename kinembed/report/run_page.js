"use strict";
// Draws the charts, moves the threshold, and opens for paper what a reader would open.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);

  // Colours are the page's variables: an SVG takes them, and they change with the page's scheme.
  const [ink, edge, one] = ["var(--ink)", "var(--edge)", "var(--one)"];
  const config = {
    autosize: { type: "fit-x", contains: "padding" },
    background: null,
    font: "system-ui, sans-serif",
    axis: { labelColor: ink, titleColor: ink, gridColor: edge, domainColor: edge, tickColor: edge, labelFlush: false, labelFontSize: 12, titleFontSize: 13, titleFontWeight: 500 },
    legend: { labelColor: ink, titleColor: ink, labelFontSize: 12, symbolOpacity: 1, symbolSize: 120 },
    view: { stroke: edge },
    rule: { color: ink },
    line: { color: one }, point: { color: one }, bar: { color: one },
    range: { category: ["one", "two", "three", "four", "five"].map((name) => `var(--${name})`) },
  };

  // Vega would compile expressions, which the page's policy forbids: it interprets them.
  const options = { ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: { disableDefaultStyle: true }, config };
  for (const [name, spec] of Object.entries(data.charts)) {
    const place = document.getElementById(`chart-${name}`);
    vegaEmbed(place, { $schema: "https://vega.github.io/schema/vega-lite/v6.json", ...spec }, options)
      .catch((error) => { place.textContent = `This chart cannot be drawn: ${error.message}`; });
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("section > details:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of opened) details.open = false; });

  const moving = data.threshold;
  if (!moving) return;
  const slider = document.getElementById("slider");
  const put = (id, text) => { document.getElementById(id).textContent = text; };
  const count = (share, of) => Math.round(share * of);
  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;

  function oneIn(share) {
    if (share <= 0) return "none of them";
    return share > 0.5 ? `${Math.round(100 * share)} of 100` : `about one in ${Math.round(1 / share).toLocaleString("en")}`;
  }

  function show() {
    const point = moving.points[Number(slider.value)];
    const tp = count(point.tar, moving.kin), fp = count(point.far, moving.others);
    const at = point.threshold.toFixed(3).replace("-", "\u2212");
    put("at", at);
    slider.setAttribute("aria-valuetext", `score ${at}`);
    put("tp", tp.toLocaleString("en"));
    put("fn", (moving.kin - tp).toLocaleString("en"));
    put("fp", fp.toLocaleString("en"));
    put("tn", (moving.others - fp).toLocaleString("en"));
    put("words", `False accept rate ${percent(point.far)}: of unrelated pairs, ${oneIn(point.far)} would be called kin. True accept rate ${percent(point.tar)}: of 100 kin pairs, ${Math.round(100 * point.tar)} would be found.`);
  }
  slider.addEventListener("input", show);
  show();
})();
