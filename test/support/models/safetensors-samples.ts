import { CodecError } from '../../../src/codec/base/errors.ts'
import { headerBytes, parseLayout } from '../../../src/codec/safetensors/header.ts'
import type { Layout } from '../../../src/codec/safetensors/layout.ts'
import { LayoutReader } from '../../../src/codec/safetensors/layout-reader.ts'
import type { Random } from '../random.ts'

const encoder = new TextEncoder()

/** A safetensors file: length word, `json` as it is or as text, `dataBytes` bytes of data. */
export function safetensorsFile(json: string | object | Uint8Array, dataBytes: number): Uint8Array {
  const text =
    json instanceof Uint8Array
      ? json
      : encoder.encode(typeof json === 'string' ? json : JSON.stringify(json))
  const file = new Uint8Array(8 + text.length + dataBytes)
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true)
  file.set(text, 8)
  for (let i = 0; i < dataBytes; i++) file[8 + text.length + i] = i
  return file
}

/** Headers to change, and the bytes of data that each describes. */
const SEEDS: readonly (readonly [string, number])[] = [
  ['{}      ', 0],
  ['{"__metadata__":{"format":"pt","k\\n":"v\\u00e9"}}', 0],
  ['{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}', 24],
  [
    '{"__metadata__":{"format":"pt"},"b":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},' +
      '"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[16,24]},"é":{"dtype":"U8","shape":[],"data_offsets":[24,25]}}  ',
    25,
  ],
  [
    '{"z":{"dtype":"F16","shape":[0,7],"data_offsets":[0,0]},"y":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},' +
      '"x":{"dtype":"BOOL","shape":[1,1,3],"data_offsets":[2,5]}}',
    5,
  ],
]

/** What may stand in place of a token of a header. */
const TOKENS = [
  ...[
    '"dtype"',
    '"shape"',
    '"data_offsets"',
    '"__metadata__"',
    '"w"',
    '"a"',
    '""',
    '"\\ud800"',
    '"\\u0061"',
    '"é"',
  ],
  ...['"F32"', '"BF16"', '"U8"', '"F4"', '"F6_E2M3"', '"f32"', '"C64"', '"F8_E8M0"'],
  ...[
    '0',
    '1',
    '2',
    '4',
    '24',
    '25',
    '-1',
    '-0',
    '2.0',
    '2e0',
    '02',
    '4294967296',
    '9007199254740991',
  ],
  ...[
    '9007199254740992',
    '18446744073709551615',
    '18446744073709551616',
    '1e999',
    'null',
    'true',
    'NaN',
  ],
  ...[
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    '{}',
    '[]',
    '[0,0]',
    '[0,24]',
    ' ',
    '\n',
    '\t',
    '\u0000',
    '\\',
    '"',
    '\ufeff',
  ],
]
const TOKEN = /"(?:[^"\\]|\\.)*"|-?[0-9]+|[{}[\],:]|\s+|./gsu

/**
 * A valid file with some changes: tokens of the header replaced, dropped, doubled or swapped; bytes flipped; the length word or the
 * length of the data changed. Every tenth or so stays as it was.
 */
export function changedSafetensors(random: Random): Uint8Array {
  const pick = (length: number) => Math.floor(random.float() * length)
  const [seed, dataBytes] = SEEDS[pick(SEEDS.length)]!
  const tokens = seed.match(TOKEN)!
  const changes = pick(4)
  for (let i = 0; i < changes; i++) changeToken(tokens, pick)
  const length = random.float() < 0.1 ? Math.max(0, dataBytes + pick(5) - 2) : dataBytes
  const file = safetensorsFile(tokens.join(''), length)
  if (random.float() < 0.15) file[pick(file.length)]! ^= 1 << pick(8)
  if (random.float() < 0.05) new DataView(file.buffer).setUint32(pick(5), pick(2 ** 32), true)
  return random.float() < 0.05 ? file.subarray(0, pick(file.length)) : file
}

function changeToken(tokens: string[], pick: (length: number) => number): void {
  const at = pick(tokens.length)
  const other = pick(tokens.length)
  switch (pick(6)) {
    case 0:
      tokens.splice(at, 1)
      break
    case 1:
      tokens.splice(at, 0, TOKENS[pick(TOKENS.length)]!)
      break
    case 2:
      tokens.splice(at, 0, ...tokens.slice(at, at + 1 + pick(30)))
      break
    case 3:
      ;[tokens[at], tokens[other]] = [tokens[other]!, tokens[at]!]
      break
    default:
      tokens[at] = TOKENS[pick(TOKENS.length)]!
  }
}

/** The layout of a whole file, read at once; the reader of streams must say the same, in pieces of any size. */
export function readLayout(file: Uint8Array): Layout {
  let whole: Layout | CodecError
  try {
    const length = headerBytes(file.subarray(0, 8), file.length)
    whole = parseLayout(file.subarray(0, length), file.length)
  } catch (error) {
    if (!(error instanceof CodecError) || error.kind !== 'safetensors') throw error
    whole = error
  }
  for (const step of [file.length || 1, 1 + (file.length % 13)]) {
    const streamed = readPieces(file, step)
    const agree =
      whole instanceof CodecError
        ? streamed instanceof CodecError
        : JSON.stringify(streamed) === JSON.stringify(whole)
    if (!agree) throw new Error(`in pieces of ${step}: ${streamed}, at once: ${whole}`)
  }
  if (whole instanceof CodecError) throw whole
  return whole
}

export function readPieces(file: Uint8Array, step: number): Layout | CodecError {
  try {
    const reader = new LayoutReader()
    for (let at = 0; at < file.length; at += step) reader.push(file.subarray(at, at + step))
    return reader.end()
  } catch (error) {
    if (!(error instanceof CodecError) || error.kind !== 'safetensors') throw error
    return error
  }
}
