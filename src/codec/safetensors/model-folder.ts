import { CodecError, namedTensor, quoted } from '../base/errors.ts'
import { parseJsonSteps } from '../base/json.ts'
import type { JsonMember } from '../base/json-values.ts'
import { LIMITS } from '../base/limits.ts'
import { sortSteps } from '../base/sort.ts'
import { complete, STEP_ITEMS, type Steps } from '../base/steps.ts'
import { compareUtf8, utf8 } from '../base/utf8.ts'
import type { LayoutTensor, Shard } from './layout.ts'

/** A tensor of a model: the number of its shard, and its entry there. */
export interface PlacedTensor {
  readonly shard: number
  readonly tensor: LayoutTensor
}

/**
 * The tensors of a model by name, in the order of its shards.
 * @throws CodecError of kind `model`: `no-shards`, `too-many-shards`, `too-many-tensors`, `duplicate-tensor`
 */
export function assembleTensors(shards: readonly Shard[]): Map<string, PlacedTensor> {
  return complete(assembleTensorsSteps(shards))
}

/** {@link assembleTensors} in steps. */
export function* assembleTensorsSteps(shards: readonly Shard[]): Steps<Map<string, PlacedTensor>> {
  if (shards.length === 0) refuse('no-shards', 'expected at least one safetensors file')
  if (shards.length > LIMITS.shards) {
    refuse('too-many-shards', `expected at most ${LIMITS.shards} shards, got ${shards.length}`)
  }
  const tensors = new Map<string, PlacedTensor>()
  for (const [shard, { path, layout }] of shards.entries()) {
    for (const tensor of layout.tensors) {
      if (tensors.size % STEP_ITEMS === 0) yield
      const other = tensors.get(tensor.name)
      if (other) {
        const where = `${shards[other.shard]!.path} and in ${path}`
        refuse('duplicate-tensor', `${namedTensor(tensor.name)} stands in ${where}`)
      }
      tensors.set(tensor.name, { shard, tensor })
    }
    if (tensors.size > LIMITS.tensors) {
      refuse('too-many-tensors', `expected at most ${LIMITS.tensors} tensors, got ${tensors.size}`)
    }
  }
  return tensors
}

/** Files by path, in the order of UTF-16 units: that of the reference's `sorted(os.listdir())` for the names that hubs use. */
export function inPathOrder<T extends { readonly path: string }>(files: readonly T[]): T[] {
  return [...files].sort((a, b) => (a.path < b.path ? -1 : 1))
}

/** Names in the order of `hash_state_dict`: by code point, as Python's `sorted`. */
export function nameOrder(names: Iterable<string>): string[] {
  return [...names].sort(compareUtf8)
}

/** {@link nameOrder} in steps. */
export function nameOrderSteps(names: Iterable<string>): Steps<readonly string[]> {
  return sortSteps(names, compareUtf8)
}

/**
 * `names`, which are in name order, in the order in which the reference loads them: shard by shard, shards by their first name, names in
 * order inside. For one shard that is name order. Names that no shard has come last.
 * Source: deltatensors 0.2.0 `io.py` `_load_base_dir_numpy`.
 */
export function shardOrder(shards: readonly Shard[], names: readonly string[]): string[] {
  return complete(shardOrderSteps(shards, names))
}

/** {@link shardOrder} in steps. */
export function* shardOrderSteps(
  shards: readonly Shard[],
  names: readonly string[],
): Steps<string[]> {
  const shardOf = new Map<string, number>()
  for (const [i, { layout }] of shards.entries()) {
    for (const { name } of layout.tensors) {
      if (shardOf.size % STEP_ITEMS === 0) yield
      shardOf.set(name, i)
    }
  }
  const groups = new Map<number, string[]>()
  for (const [i, name] of names.entries()) {
    if (i % STEP_ITEMS === 0) yield
    const shard = shardOf.get(name) ?? shards.length
    const group = groups.get(shard)
    if (group) group.push(name)
    else groups.set(shard, [name])
  }
  return [...groups.values()].flat()
}

/**
 * Checks that a `model.safetensors.index.json` names exactly the tensors of the shards, each in its shard. Its other members are not looked at.
 * @throws CodecError of kind `model`: what the JSON tokenizer throws, `shard-index`
 */
export function checkShardIndex(json: Uint8Array, shards: readonly Shard[]): void {
  complete(checkShardIndexSteps(json, shards))
}

/** {@link checkShardIndex} in steps. */
export function* checkShardIndexSteps(json: Uint8Array, shards: readonly Shard[]): Steps<void> {
  const tensors = yield* assembleTensorsSteps(shards)
  let named = 0
  const check = ({ key: name, value, keyOffset }: JsonMember) => {
    const placed = tensors.get(name)
    const path = placed && shards[placed.shard]!.path
    if (value.kind !== 'string' || value.value !== path) {
      const expected = path === undefined ? 'no shard has it' : `it is in ${path}`
      const came = value.kind === 'string' ? JSON.stringify(value.value.slice(0, 255)) : value.kind
      refuse(
        'shard-index',
        `weight_map puts ${quoted(name)} into ${came}, but ${expected}`,
        keyOffset,
      )
    }
    named++
  }
  const root = yield* parseJsonSteps(withoutLastLines(json), 0, 'model', ['weight_map'], check)
  if (root.kind !== 'object' || root.members.get('weight_map')?.kind !== 'object') {
    refuse('shard-index', 'expected an object with a weight_map object', root.offset)
  }
  if (named < tensors.size) {
    refuse('shard-index', `weight_map names ${named} of ${tensors.size} tensors`)
  }
}

/** A text file without the line ends at its end, which the parser of headers refuses. */
function withoutLastLines(text: Uint8Array): Uint8Array {
  let end = text.length
  while (text[end - 1] === 0x0a || text[end - 1] === 0x0d) end--
  return text.subarray(0, end)
}

/**
 * Refuses what cannot be the path of a file in a model: segments that are empty, `.` or `..`, backslashes, drive letters, control
 * characters, more than 255 bytes in a segment or 1024 in all.
 * @throws CodecError `path`
 */
export function checkPath(path: string): void {
  const fail = (why: string) => refuse('path', `file path ${quoted(path)}: ${why}`)
  if (utf8(path).length > 1024) fail('expected at most 1024 bytes')
  if (!path.isWellFormed() || /[\p{Cc}\\]/u.test(path)) {
    fail('expected no control characters and no backslash')
  }
  if (/^[A-Za-z]:/.test(path)) fail('expected no drive letter')
  for (const segment of path.split('/')) {
    if (segment === '' || segment === '.' || segment === '..') {
      fail('expected no empty, . or .. segment')
    }
    if (utf8(segment).length > 255) fail('expected at most 255 bytes in a segment')
  }
}

function refuse(rule: string, message: string, offset: number | null = null): never {
  throw new CodecError('model', rule, message, offset)
}
