"use strict";
// Draws the charts in the colours of the page, and moves the threshold.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function config() {
    const style = getComputedStyle(document.documentElement);
    const [ink, edge] = ["--ink", "--edge"].map((name) => style.getPropertyValue(name).trim());
    const range = dark.matches
      ? ["#f0a94b", "#6fb1f7", "#7ed0a5", "#d8a3e8", "#c9c46a"]
      : ["#b5651d", "#1f6fc0", "#2d8659", "#8a4fa3", "#7a7420"];
    return {
      background: null,
      font: "system-ui, sans-serif",
      axis: { labelColor: ink, titleColor: ink, gridColor: edge, domainColor: edge, tickColor: edge, labelFontSize: 12, titleFontSize: 13, titleFontWeight: 500 },
      legend: { labelColor: ink, titleColor: ink, labelFontSize: 12, symbolOpacity: 1 },
      view: { stroke: edge },
      rule: { color: ink },
      line: { color: range[0] }, point: { color: range[0] }, bar: { color: range[0] },
      range: { category: range },
    };
  }

  // Vega would compile expressions, which the page's policy forbids: it interprets them.
  const options = { ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: { disableDefaultStyle: true } };
  function draw() {
    for (const [name, spec] of Object.entries(data.charts)) {
      const place = document.getElementById(`chart-${name}`);
      vegaEmbed(place, { $schema: "https://vega.github.io/schema/vega-lite/v6.json", autosize: { type: "fit-x", contains: "padding" }, ...spec }, { ...options, config: config() })
        .catch((error) => { place.textContent = `This chart cannot be drawn: ${error.message}`; });
    }
  }
  draw();
  dark.addEventListener("change", draw);

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
    put("at", point.threshold.toFixed(3));
    slider.setAttribute("aria-valuetext", `score ${point.threshold.toFixed(3)}, false accept rate ${percent(point.far)}`);
    put("tp", tp.toLocaleString("en"));
    put("fn", (moving.kin - tp).toLocaleString("en"));
    put("fp", fp.toLocaleString("en"));
    put("tn", (moving.others - fp).toLocaleString("en"));
    put("words", `False accept rate ${percent(point.far)}: of unrelated pairs, ${oneIn(point.far)} would be called kin. True accept rate ${percent(point.tar)}: of 100 kin pairs, ${Math.round(100 * point.tar)} would be found.`);
  }
  slider.addEventListener("input", show);
  show();
})();
