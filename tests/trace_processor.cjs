// The trace processor of Perfetto's UI as a program: node trace_processor.cjs FOLDER-OF-THE-UI
// Requests on stdin, replies on stdout, in the words of Perfetto's trace_processor.proto.
const fs = require("fs");
const path = require("path");

const folder = process.argv[2];
const read = (name) => fs.readFileSync(path.join(folder, path.basename(String(name))));
const note = (...words) => process.stderr.write(words.join(" ") + "\n");

// What the UI's worker would find in a browser.
const page = {
  self: { location: { href: "http://localhost/" } },
  process: undefined,
  WorkerGlobalScope: function () {},
  XMLHttpRequest: function () {
    this.open = (_, name) => { this.name = name; };
    this.send = () => { this.response = read(this.name); };
  },
  fetch: async (name) =>
    new Response(read(name), { headers: { "Content-Type": "application/wasm" } }),
  console: { log: note, warn: note, error: note },
};
const worker = read("engine_bundle.js").toString();
new Function(...Object.keys(page), worker)(...Object.values(page));

const port = { postMessage: (bytes) => fs.writeSync(1, bytes) };
page.self.onmessage({ data: port });

const waiting = [];
const answer = () => {
  while (waiting.length) {
    try {
      port.onmessage({ data: waiting[0] });
    } catch (error) {
      // The module is compiled meanwhile.
      if (!/undefined|null/.test(String(error))) throw error;
      setTimeout(answer, 50);
      return;
    }
    waiting.shift();
  }
};
process.stdin.on("data", (data) => { waiting.push(data); answer(); });
