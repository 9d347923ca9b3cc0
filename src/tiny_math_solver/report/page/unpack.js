// What the page carries in compressed form: gzip in base64, in script elements that are no scripts.

const OLD_BROWSER =
  "This browser cannot unpack the data in this page (it has no DecompressionStream). Open the page in Chrome or Edge 80, " +
  "Safari 16.4, Firefox 113, or a later version. The records themselves lie beside the page: metrics.jsonl, rollouts.jsonl.";

/** The text in a script element of the page. */
async function unpacked(id) {
  const binary = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/** Run plotly, which then is the global Plotly. */
async function loadPlotly() {
  const script = document.createElement("script");
  script.textContent = await unpacked("plotly");
  document.head.append(script);
}
