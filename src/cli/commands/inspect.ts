import { nameOrder } from '../../codec/safetensors/model-folder.ts'
import {
  type DeltaIndex,
  type FrameTensor,
  type RecordTensor,
  recordTensorBytes,
} from '../../codec/wdelta/delta-index.ts'
import {
  type EncodingUse,
  frameStorage,
  type TensorStorage,
} from '../../codec/wdelta/v2/storage.ts'
import { command } from '../command.ts'
import { LocalFiles } from '../local/files.ts'
import { type LocalDelta, openDelta } from '../local/model.ts'
import { say } from '../terminal.ts'

/** `wdelta inspect`: describes deltas. */
export const inspect = command({
  usage: 'inspect D.wdelta … [--json]',
  help: `Checks each delta and prints a line with its size, parent, strategy and tensors. Several are numbered as a chain.

  --json         print an array with one object per delta: the keys of the reference's inspect, and of each tensor its shape, dtype,
                 strategy, the dtype that the fine-tune had, stored bytes, and how many of its values are NaN or infinite; of a lossless
                 delta, the encodings of its frames`,
  options: { json: { type: 'boolean', default: false } },
  positionals: [1, Number.POSITIVE_INFINITY],
  run: async (values, paths, signal) => {
    await using files = new LocalFiles()
    const deltas: LocalDelta[] = []
    for (const path of paths) deltas.push(await openDelta(files, path, { checksum: true, signal }))
    if (values.json) {
      await say(JSON.stringify(deltas.map(describe), null, 1))
      return
    }
    for (const [step, delta] of deltas.entries()) {
      await say(deltas.length > 1 ? `${step}: ${line(delta)}` : line(delta))
    }
  },
})

function line({ path, index }: LocalDelta): string {
  const { parentHash, strategy, tensors } = index
  const figures = `size_mb=${megabytes(index)} strategy=${strategy} n_tensors=${tensors.length}`
  return `${path} ${figures} parent_hash=${parentHash}`
}

/** The keys and values of deltatensors 0.2.0 `io.py` `inspect_chain`, and more per tensor. */
function describe({ path, index }: LocalDelta, step: number) {
  const storage = index.frames ? frameStorage(index) : null
  const byName = new Map<string, object>()
  for (const { tensor, ...use } of storage?.tensors ?? []) {
    byName.set(tensor.name, describeFrames(tensor, index.strategy, use))
  }
  for (const tensor of index.frames ? [] : index.tensors) {
    byName.set(tensor.name, describeTensor(tensor))
  }
  const entries = nameOrder(byName.keys()).map(name => [name, byName.get(name)!])
  return {
    path,
    size_mb: megabytes(index),
    parent_hash: index.parentHash,
    strategy: index.strategy,
    n_tensors: index.tensors.length,
    tensors: Object.fromEntries(entries),
    step,
    ...(storage && {
      format: index.format,
      parent_identity: index.parentIdentity,
      encodings: storage.encodings.map(describeUse),
    }),
  }
}

function describeFrames(
  { shape, dtype, source }: FrameTensor,
  strategy: DeltaIndex['strategy'],
  { storedBytes, encodings }: Omit<TensorStorage, 'tensor'>,
) {
  return {
    shape,
    dtype,
    strategy,
    source: source?.name ?? null,
    stored_bytes: storedBytes,
    encodings: encodings.map(describeUse),
  }
}

function describeUse({ encoding, frames, storedBytes }: EncodingUse) {
  return { encoding, frames, stored_bytes: storedBytes }
}

function describeTensor(tensor: RecordTensor) {
  return {
    shape: tensor.shape,
    // The only output dtype that the format has.
    dtype: 'float32',
    strategy: tensor.strategy,
    tuned_dtype: tensor.tunedDtype,
    stored_bytes: recordTensorBytes(tensor),
    non_finite: tensor.nonFinite,
  }
}

/** Millions of bytes with two digits. */
function megabytes({ size }: DeltaIndex): number {
  return Number((size / 1e6).toFixed(2))
}
