import { deltaFilename } from '../../catalog/file-names.ts'
import type { FloatDtype } from '../../codec/base/dtypes.ts'
import { CodecError } from '../../codec/base/errors.ts'
import type { ByteRange } from '../../codec/base/ranges.ts'
import { planCopy, planRange, planTensor, storedBytes } from '../../codec/plan/plan.ts'
import type { Segment } from '../../codec/plan/segments.ts'
import type { Layout } from '../../codec/safetensors/layout.ts'
import { RegistryError } from '../../errors.ts'
import type { Engine } from '../../workers/engine.ts'
import type { Content, TensorContent } from '../registry.ts'
import { translateErrors } from '../translate.ts'
import { checkedEngine } from './checked-reads.ts'
import type { OpenedModel } from './opened-models.ts'

const BINARY = 'application/octet-stream'

/** Media types that are safe to display and that clients expect; everything else is plain bytes. */
const MEDIA_TYPES: Readonly<Record<string, string>> = {
  json: 'application/json',
  txt: 'text/plain; charset=utf-8',
  md: 'text/plain; charset=utf-8',
}

interface Planned {
  readonly size: number
  readonly etag: string
  readonly sha256: string | null
  readonly filename: string
  readonly segments: (range: ByteRange) => Iterable<Segment>
}

/** The model as one safetensors file, cast to the dtype of `cast` where it is given. */
export function reconstructContent(
  engine: Engine,
  model: OpenedModel,
  cast: { dtype: FloatDtype; layout: Layout } | null,
): Content {
  const { record, recipes, sums } = model
  const filename = `${record.name.replace('/', '--')}.safetensors`
  const checked = checkedEngine(engine, sums)
  if (!cast) {
    const { layout } = model
    return content(checked, {
      size: layout.size,
      etag: record.sha256,
      sha256: record.sha256,
      filename,
      segments: range => planRange(recipes, layout, range),
    })
  }
  const { dtype, layout } = cast
  return content(checked, {
    size: layout.size,
    etag: `${record.id}-${dtype.toLowerCase()}`,
    sha256: null,
    filename,
    segments: range => planRange(recipes, layout, range),
  })
}

/** One file of the model. @throws RegistryError `file-not-found`. */
export function fileContent(engine: Engine, model: OpenedModel, path: string): Content {
  const { record, manifest, recipes, sums } = model
  const file = record.files.find(candidate => candidate.path === path)
  if (!file) {
    throw new RegistryError('file-not-found', `model ${record.id} has no file ${path}`)
  }
  const { blob, size, sha256 } = file
  const filename = path.split('/').at(-1)!
  const checked = checkedEngine(engine, sums)
  if (blob !== null) return blobContent(checked, { blob, size, sha256, filename })
  const { layout } = manifest.shards.find(shard => shard.path === path)!
  return content(checked, {
    size,
    etag: sha256,
    sha256,
    filename,
    segments: range => planRange(recipes, layout, range),
  })
}

/** The `.wdelta` of a delta as it is stored. @throws RegistryError `not-a-delta` for a base */
export function deltaContent(engine: Engine, model: OpenedModel): Content {
  const { record, manifest, sums } = model
  const { delta, name, id } = record
  if (delta === null) throw new RegistryError('not-a-delta', `model ${id} is a base`)
  const { size, sha256 } = manifest.blobs.find(({ key }) => key === delta)!
  const filename = deltaFilename(name)
  return blobContent(checkedEngine(engine, sums), { blob: delta, size, sha256, filename })
}

/** Stored bytes as they are. */
function blobContent(
  engine: Engine,
  {
    blob,
    size,
    sha256,
    filename,
  }: { blob: string; size: number; sha256: string; filename: string },
): Content {
  return content(engine, {
    size,
    etag: sha256,
    sha256,
    filename,
    segments: range => planCopy({ blob, start: 0, end: size }, range),
  })
}

/** One tensor in its stored dtype. @throws RegistryError `tensor-not-found`. */
export function tensorContent(
  engine: Engine,
  { record, recipes, sums }: OpenedModel,
  name: string,
): TensorContent {
  const recipe = recipes.get(name)
  if (!recipe) {
    throw new RegistryError(
      'tensor-not-found',
      `model ${record.id} has no tensor ${JSON.stringify(name)}`,
    )
  }
  const { dtype, shape } = recipe
  const planned = content(checkedEngine(engine, sums), {
    size: storedBytes(recipe),
    // The digest fixes the model, the URL the tensor.
    etag: `${record.sha256}-${Buffer.from(name).toString('base64url').slice(0, 64)}`,
    sha256: null,
    filename: 'tensor.bin',
    segments: range => planTensor(recipe, dtype, range),
  })
  return { ...planned, dtype, shape }
}

function content(engine: Engine, planned: Planned): Content {
  const { size, etag, sha256, filename, segments } = planned
  const extension = filename.includes('.') ? filename.split('.').at(-1)!.toLowerCase() : ''
  return {
    size,
    etag,
    sha256,
    filename,
    mediaType: MEDIA_TYPES[extension] ?? BINARY,
    open: (range, signal) => translateStream(engine.stream(segments(range), signal)),
  }
}

async function* translateStream(chunks: AsyncGenerator<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* chunks
  } catch (error) {
    // It decoded when it was published: the fault is the registry's, not the client's.
    if (error instanceof CodecError) {
      throw new RegistryError('storage-failed', 'stored bytes do not decode', { cause: error })
    }
    throw translateErrors(error)
  }
}
