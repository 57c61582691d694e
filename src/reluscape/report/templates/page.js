(() => {
  const config = {
    responsive: true, displayModeBar: false, displaylogo: false, showLink: false,
    showSendToCloud: false, showEditInChartStudio: false, plotlyServerURL: "", scrollZoom: false,
  };
  const plots = [...document.querySelectorAll(".plot")];
  for (const plot of plots) {
    const spec = JSON.parse(document.getElementById(plot.id + "-data").textContent);
    Plotly.newPlot(plot, spec.data, spec.layout, config);
  }
  const closed = [];
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open])")) {
      part.open = true;
      closed.push(part);
    }
    for (const plot of plots) Plotly.relayout(plot, { width: 620, autosize: false });
  });
  window.addEventListener("afterprint", () => {
    while (closed.length) closed.pop().open = false;
    for (const plot of plots) Plotly.relayout(plot, { width: null, autosize: true });
  });
})();
// Commands break between words, not within --options.
document.querySelectorAll("pre code").forEach((code) => {
  const parts = code.textContent.split(/(\s+)/).map((part) => {
    if (!part.trim()) return part;
    const word = document.createElement("span");
    word.textContent = part;
    return word;
  });
  code.replaceChildren(...parts);
});
