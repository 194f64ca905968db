"use strict";
// What the scripts of the page share. Nothing is computed here that the report's program can compute.
const page = {
  part: (root, role) => root.querySelector(`[data-role="${role}"]`),
  parts: (root, role) => [...root.querySelectorAll(`[data-role="${role}"]`)],

  // The JSON of a packed block (analysis/report/packed.py).
  async unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  },

  // Calls `start` once the element is seen for the first time: closed parts cost nothing.
  whenSeen(element, start) {
    const observer = new ResizeObserver(() => {
      if (!element.clientWidth) return;
      observer.disconnect();
      start();
    });
    observer.observe(element);
  },

  number(value) {
    if (value === null || value === undefined) return "-";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace("e+", "e");
    return String(Number(value.toPrecision(size >= 1000 ? Math.ceil(Math.log10(size + 1)) : 3)));
  },

  short(value) {
    if (value === null || value === undefined) return "";
    const size = Math.abs(value);
    if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
    if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
    return size && size < 1e-3 ? value.toExponential().replace("e+", "e") : String(Number(value.toPrecision(6)));
  },

  make(tag, text, name) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  },
};
// Without what they need (old browsers) the scripts leave the page as it is without JavaScript.
page.able = "DecompressionStream" in window && "ResizeObserver" in window;
