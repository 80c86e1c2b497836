export { addInt4, addQuantized, addSparse } from './add'
export {
  loadBF16,
  loadF16,
  loadF64,
  roundBF16,
  roundF16,
  storeBF16,
  storeF16,
  storeF64,
  subtractFrom,
} from './cast'
export { addStripes, beginChecksum, endChecksum } from './checksum'
export { A, ACC, ARENA, ARENA_BYTES, B, BLOCK, C, OTHER, OUT, PLANES, RESULTS, ROUNDED } from './memory'
export {
  addError, collectHigh, countAbove, packSigns, pairwiseAbsSum, quantizeInt4, selectTop, sumOfSquares,
} from './encode'
export {
  changedBlocks, countExponents, countSymbols, decodeLanes, encodeLanes, gatherBlocks, joinHalves, scatterBlocks, splitLows,
  takeSymbols, upperHalves,
} from './coder'
export {
  BITMAP, COUNTS, DECODING, ENCODING, HIGHER_LOWS, LOWS, RAW, RECORD, STATES, SYMBOLS, TABLES, WORDS, WORDS_END, X, X2, X3, Y, Y2, Y3,
} from './memory'
