import { z } from 'zod'
import { type ErrorCode, PROBLEMS } from '../errors.ts'
import { MODEL_ID, OUTPUT_DTYPES, STRATEGIES } from '../registry/registry.ts'

/** Pattern of a segment of a name, and of a revision. */
const SEGMENT = '[A-Za-z0-9][A-Za-z0-9._-]{0,95}'
const NAME = new RegExp(`^${SEGMENT}/${SEGMENT}$`)
const REVISION = new RegExp(`^(?!${MODEL_ID}$)${SEGMENT}$`)
/** Most characters of a ref: the longest `namespace/name@revision` has 290. */
const REF_CHARACTERS = 300
/** Most characters of a message. */
const MESSAGE_CHARACTERS = 10_000
/** Most characters of a parameter in a URL. A tensor's name may be longer, but a URL must fit into the request's head. */
export const PARAM_CHARACTERS = 8192

const name = z.string().regex(NAME, `expected namespace/name, each ${SEGMENT}`)
const revision = z
  .string()
  .regex(REVISION, `expected ${SEGMENT}, and not 40 hex digits, which are ids`)
const ref = z.string().min(1).max(REF_CHARACTERS)
const sha256 = z.string().describe('SHA-256, lowercase hex')
const id = z.string().describe("40 lowercase hex digits: a model's id")
const bytes = z.number().int().min(0)
const strategy = z.enum(STRATEGIES)
const scope = z.enum(['read', 'write', 'admin'])
const time = z.string().describe('ISO 8601, UTC')

/** A form field with a number from 0 to 1. */
const fraction = z
  .string()
  .regex(/^[0-9]*\.?[0-9]+(e-?[0-9]+)?$/i, 'expected a number')
  .transform(Number)
  .pipe(z.number().min(0).max(1))

const publishing = {
  name,
  revision: revision.default('main'),
  message: z.string().max(MESSAGE_CHARACTERS).default(''),
  parent: ref.optional().describe('An id or `namespace/name[@revision]`'),
}

/** Fields of `POST /models`. */
export const modelFields = z.object({
  ...publishing,
  strategy: strategy
    .optional()
    .describe('Without a parent `whole`, with one `lossless` unless said otherwise'),
  outlier_fraction: fraction.optional().describe('int4: share of values kept exact, 0.01'),
  sparsity: fraction.optional().describe('sparse: share of values dropped, 0.9'),
})

/** Fields of `POST /deltas`. */
export const deltaFields = z.object(publishing)

const errorFigures = z.object({ nmse: z.number(), maxAbs: z.number() }).nullable()

const files = z.array(z.object({ path: z.string(), size: bytes, sha256 })).readonly()

export const model = z
  .object({
    id,
    name: z.string(),
    revision: z.string(),
    kind: z.enum(['base', 'delta']),
    strategy,
    parent: id.nullable(),
    tensors: bytes.describe('How many'),
    parameters: bytes.describe('Elements of all tensors'),
    dtypes: z.array(z.string()).readonly(),
    size: bytes.describe('Bytes of the reconstruct stream, dtype=stored'),
    storedSize: bytes.describe('Bytes of every blob that the model refers to'),
    sha256: sha256.describe('SHA-256 of the reconstruct stream, dtype=stored'),
    hashes: z.object({ stored: z.string(), float32: z.string().nullable() }),
    files,
    filesTotal: bytes.describe('How many'),
    error: errorFigures,
    damaged: z.object({ file: z.string(), offset: bytes, at: time }).nullable(),
    message: z.string(),
    createdAt: time,
  })
  .meta({ id: 'Model', description: 'One immutable version: a set of files with an id' })

const listedModel = model
  .extend({ files: files.optional().describe('Left out where there are more than 100') })
  .meta({ id: 'ListedModel', description: 'A model in a list' })
const next = z
  .string()
  .nullable()
  .describe('The `cursor` of the page that follows; null on the last one')
export const modelPage = z.object({ models: z.array(listedModel).readonly(), next })
export const lineagePage = z.object({ lineage: z.array(listedModel).readonly(), next })

/** Most models or tokens of one page. A page of large ones may end earlier. */
const limit = z.coerce.number().int().min(1).max(1000)
const cursor = z.string().optional().describe('`next` of the page before')

export const pageQuery = z.object({ limit: limit.default(100), cursor })
/** Paging of lists that older clients expect whole. */
export const fullPageQuery = z.object({ limit: limit.default(1000), cursor })
export const listQuery = pageQuery.extend({
  name: z.string().optional(),
  revision: z.string().optional(),
  parent: ref.optional(),
})

export const tensors = z.object({
  tensors: z
    .array(
      z.object({
        name: z.string(),
        dtype: z.string(),
        shape: z.array(bytes).readonly(),
        size: bytes,
      }),
    )
    .readonly(),
})

const encodingUses = z
  .array(z.object({ encoding: z.string(), frames: bytes, storedBytes: bytes }))
  .readonly()
  .optional()
  .describe('Of a lossless delta: what its frames are, and in how many bytes')

export const inspection = z.object({
  id,
  format: z.union([z.literal(1), z.literal(2)]),
  strategy: z.string(),
  parentHash: z.string(),
  parentIdentity: sha256
    .optional()
    .describe('Of a lossless delta: names, dtypes, shapes and contents of its parent'),
  storedSize: bytes,
  encodings: encodingUses,
  tensors: z
    .array(
      z.object({
        name: z.string(),
        shape: z.array(bytes).readonly(),
        dtype: z.string(),
        strategy: z.string(),
        storedBytes: bytes,
        error: errorFigures,
        nonFinite: bytes,
        source: z
          .string()
          .nullable()
          .optional()
          .describe("Of a lossless delta: the parent's tensor that predicts this one"),
        encodings: encodingUses,
      }),
    )
    .readonly(),
})

export const stats = z.object({
  models: bytes,
  bases: bytes,
  deltas: bytes,
  logicalBytes: bytes,
  storedBytes: bytes,
  savedBytes: z.number().int(),
})

const token = z
  .object({
    id: z.string(),
    name: z.string(),
    scope,
    createdAt: time,
    expiresAt: time.nullable(),
  })
  .meta({ id: 'Token' })

export const newToken = z.object({
  name: z.string().min(1).max(200),
  scope,
  expiresAt: z.iso.datetime({ offset: true }).optional(),
})
export const createdToken = token
  .extend({ token: z.string().describe('Shown this once') })
  .meta({ id: 'CreatedToken' })
export const tokens = z.object({ tokens: z.array(token).readonly(), next })

/** The body may be left out. */
export const sweepOptions = z.object({ dryRun: z.boolean().default(false) }).nullish()
export const sweepReport = z.object({
  dryRun: z.boolean(),
  deleted: z
    .array(z.object({ key: z.string(), size: bytes }))
    .readonly()
    .describe('The first 1000'),
  deletedTotal: bytes.describe('How many'),
  bytes: bytes.describe('Of all'),
})

export const scrubReport = z.object({
  blobs: bytes.describe('How many were read'),
  bytes,
  damaged: z
    .array(
      z.object({
        model: id,
        name: z.string(),
        revision: z.string(),
        file: z
          .string()
          .describe(
            'A path, the file name of the delta, `manifest`, or `registry.sqlite` for the row in the catalog',
          ),
        tensors: z.array(z.string()).readonly().describe('The first 100'),
        offset: bytes.describe('First bad byte of what the file is stored in'),
        bytes,
        why: z.enum(['checksum', 'short', 'missing', 'unreadable']),
        blob: z.string(),
      }),
    )
    .readonly()
    .describe('The first 1000'),
  damagedTotal: bytes.describe('How many'),
  cleared: z.array(id).readonly().describe('Models that were marked and are sound: the first 1000'),
  clearedTotal: bytes.describe('How many'),
})

export const refParams = z.object({
  id: ref.describe('A model id, or `namespace/name@revision` percent-encoded as one segment'),
})
export const tensorParams = refParams.extend({ name: z.string().describe('Percent-encoded') })
export const fileParams = refParams.extend({ '*': z.string().describe('Path of the file') })
export const tokenParams = z.object({ id: z.string().max(REF_CHARACTERS) })

export const reconstructQuery = z.object({
  dtype: z.enum(OUTPUT_DTYPES).default('stored'),
})

/** The response of a 204. */
export const nothing = z.undefined().describe('Done')

export const status = z.object({ status: z.literal('ok') })

export const health = status.extend({ version: z.string().describe('Of the registry') })

const problem = z
  .looseObject({
    type: z.string().describe('`urn:wdelta:problem:` and the code'),
    title: z.string(),
    status: z.number().int(),
    detail: z.string().optional().describe('What was expected, what came, where; not for 5xx'),
    code: z.enum(Object.keys(PROBLEMS) as [ErrorCode, ...ErrorCode[]]),
  })
  .meta({ id: 'Problem', description: 'RFC 9457; some codes add members of their own' })

/** The response of every failed operation. */
export const failure = {
  description: 'A problem',
  content: { 'application/problem+json': { schema: problem } },
}

/** A response with bytes. */
export function binary(description: string) {
  return { description, content: { 'application/octet-stream': { schema: z.file() } } }
}

/** A response with text. */
export function text(description: string, type: string) {
  return { description, content: { [type]: { schema: z.string() } } }
}
