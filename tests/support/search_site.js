// The search of the built site, by the program that a browser runs: node search_site.js SITE QUERY...
// It prints a JSON list for each query: the pages that it finds, the best first.
const fs = require("fs"), path = require("path"), vm = require("vm");

const [site, ...queries] = process.argv.slice(2);
const load = (name) => vm.runInThisContext(fs.readFileSync(path.join(site, name), "utf8"), { filename: name });
Object.assign(globalThis, {
  window: globalThis,
  _: (words) => words,
  _ready: () => {},
  DOCUMENTATION_OPTIONS: {},
  SPHINX_HIGHLIGHT_ENABLED: false,
  document: { getElementById: () => null },
});
["_static/language_data.js", "_static/searchtools.js", "searchindex.js"].forEach(load);
globalThis.queries = queries;
console.log(vm.runInThisContext(
  "JSON.stringify(queries.map((it) => Search._performSearch(...Search._parseQuery(it)).reverse().map((found) => found[0])))",
));
