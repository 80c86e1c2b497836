import type { Random } from '../random.ts'
import type { Folder, GeneratedTensor, Tensors } from './generated-models.ts'

/** How a model is cut into files: names of tensors by shard, in the order of their bytes. */
export interface Cut {
  readonly shards: readonly { readonly path: string; readonly names: readonly string[] }[]
}

/** What {@link writeFolder} and {@link cutModel} make, by chance. */
export const FILE_FEATURES = [
  '1 shards',
  '7 shards',
  'shards are cut differently',
  'a shard without tensors',
  'a side file',
  'an empty side file',
  'a shard index',
  'a header padded to 8 bytes',
  'a header without padding',
  'a header of much padding',
  'a header of another order than the data',
  'a header with blanks',
  'a header with escapes',
  'data at an odd offset',
  'metadata',
  'no metadata',
  'names beyond ASCII',
] as const

/** Deals the tensors out to 1 to 7 shards, as the seed has it, some of which may stay empty. */
export function cutModel(names: Iterable<string>, seed: number, random: Random): Cut {
  const count = seed % 3 === 0 ? 1 : 2 + (seed % 6)
  const shards = Array.from({ length: count }, (_, i) => ({
    path: shardPath(i, count, seed),
    names: [] as string[],
  }))
  for (const name of names) shards[random.below(count)]!.names.push(name)
  return { shards: shards.map(shard => ({ ...shard, names: random.shuffled(shard.names) })) }
}

function shardPath(i: number, count: number, seed: number): string {
  if (seed % 11 === 5) return `Gewichte ü ${i}.safetensors`
  if (count === 1) return 'model.safetensors'
  const [number, of] = [i + 1, count].map(n => String(n).padStart(5, '0'))
  return `model-${number}-of-${of}.safetensors`
}

/** The files of a model: shards with headers of every legal kind, and for some models files beside them. */
export function writeFolder(
  model: Tensors,
  { shards }: Cut,
  random: Random,
  note: (feature: string) => void,
): Folder {
  const folder = new Map<string, Uint8Array>()
  note(`${shards.length} shards`)
  for (const { path, names } of shards) {
    if (names.length === 0) note('a shard without tensors')
    if (names.some(name => /[^ -~]/.test(name))) note('names beyond ASCII')
    const tensors = names.map(name => [name, model.get(name)!] as const)
    folder.set(path, writeSafetensors(tensors, random, note))
  }
  if (random.chance(30)) {
    note('a side file')
    folder.set('config.json', utf8(JSON.stringify({ seed: random.next() })))
  }
  if (random.chance(10)) {
    note('an empty side file')
    folder.set('original/空.txt', new Uint8Array(0))
  }
  if (random.chance(20)) {
    note('a shard index')
    const map = shards.flatMap(({ path, names }) => names.map(name => [name, path] as const))
    const json = `{"metadata":{},"weight_map":{${map.map(pair => pair.map(quoted).join(':'))}}}\n`
    folder.set('model.safetensors.index.json', utf8(json))
  }
  return folder
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}

function quoted(text: string): string {
  return JSON.stringify(text)
}

/** A safetensors file of these tensors, their bytes in this order, with a header as writers make them and as they might. */
function writeSafetensors(
  tensors: readonly (readonly [name: string, tensor: GeneratedTensor])[],
  random: Random,
  note: (feature: string) => void,
): Uint8Array {
  let end = 0
  const escapes = random.chance(15)
  const string = escapes ? escaped : quoted
  const placed = tensors.map(([name, { dtype, shape, data }]) => {
    const begin = end
    end += data.length
    const offsets = `"data_offsets":[${begin},${end}]`
    const fields = [`"dtype":"${dtype}"`, `"shape":[${shape}]`, offsets]
    return `${string(name)}:{${(random.chance(20) ? random.shuffled(fields) : fields).join()}}`
  })
  const members = random.chance(30) ? random.shuffled(placed) : placed
  if (members.some((member, i) => member !== placed[i]))
    note('a header of another order than the data')
  if (escapes && members.some(member => member.includes('\\u'))) note('a header with escapes')
  const metadata = random.chance(60) ? { format: 'pt', Größe: '😀', empty: '' } : null
  note(metadata ? 'metadata' : 'no metadata')
  const all = [...members]
  if (metadata) {
    const where = random.chance(70) ? 0 : random.below(all.length + 1)
    all.splice(where, 0, `"__metadata__":${JSON.stringify(metadata)}`)
  }
  const blanks = random.chance(15)
  if (blanks) note('a header with blanks')
  const json = utf8(blanks ? `{ ${all.join(' ,\n\t')}\r\n}` : `{${all}}`)
  const header = padded(json, random, note)
  if (header.length % 2 === 1) note('data at an odd offset')
  const file = new Uint8Array(8 + header.length + end)
  new DataView(file.buffer).setUint32(0, header.length, true)
  file.set(header, 8)
  let at = 8 + header.length
  for (const [, { data }] of tensors) {
    file.set(data, at)
    at += data.length
  }
  return file
}

function padded(json: Uint8Array, random: Random, note: (feature: string) => void): Uint8Array {
  const kind = random.pick(['padded to 8 bytes', 'without padding', 'of much padding'] as const)
  note(`a header ${kind}`)
  const aligned = Math.ceil(json.length / 8) * 8
  const length = {
    'padded to 8 bytes': aligned,
    'without padding': json.length,
    'of much padding': aligned + 1 + random.below(200),
  }[kind]
  const header = new Uint8Array(length).fill(0x20)
  header.set(json)
  return header
}

/** A JSON string in which every third character is an escape. */
function escaped(text: string): string {
  const units = Array.from({ length: text.length }, (_, i) => text.charCodeAt(i))
  const written = units.map((unit, i) => {
    if (i % 3 === 0 || unit < 0x20 || unit > 0x7e || unit === 0x22 || unit === 0x5c) {
      return `\\u${unit.toString(16).padStart(4, '0')}`
    }
    return String.fromCharCode(unit)
  })
  return `"${written.join('')}"`
}
