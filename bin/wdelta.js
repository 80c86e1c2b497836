#!/usr/bin/env node
// A clone runs its sources. In an installed package Node strips no types, so there the build runs.
const installed = import.meta.url.includes('/node_modules/')
await import(installed ? '../dist/cli/wdelta.js' : '../src/cli/wdelta.ts')
