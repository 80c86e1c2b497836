import { createHash, randomUUID } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'

/** What the blob store asks of a server. */
export type Operation =
  | 'HeadBucket'
  | 'PutObject'
  | 'GetObject'
  | 'HeadObject'
  | 'DeleteObject'
  | 'ListObjectsV2'
  | 'CreateMultipartUpload'
  | 'UploadPart'
  | 'CompleteMultipartUpload'
  | 'AbortMultipartUpload'
  | 'ListMultipartUploads'
  | 'ListParts'

export interface Asked {
  readonly operation: Operation
  readonly key: string
  readonly query: URLSearchParams
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer
}

interface Stored {
  readonly bytes: Buffer
  readonly etag: string
  readonly modified: Date
}

interface Unfinished {
  readonly key: string
  readonly initiated: Date
  readonly parts: Map<number, Stored>
}

/** What lists tell of. */
export interface View {
  readonly objects: ReadonlyMap<string, Stored>
  readonly uploads: ReadonlyMap<string, Unfinished>
}

/** Least size of a part that is not the last one. */
const MIN_PART_BYTES = 5 * 1024 * 1024
const NOTHING = Buffer.alloc(0)

/** One bucket in memory: as much of the protocol as the blob store speaks. Source: the API reference of Amazon S3. */
export class FakeBucket {
  readonly name = 'bucket'
  readonly objects = new Map<string, Stored>()
  readonly uploads = new Map<string, Unfinished>()
  readonly #pageSize: number

  /** `pageSize`: what one answer lists at most. */
  constructor(pageSize = 1000) {
    this.#pageSize = pageSize
  }

  /** What lists would tell of now, whatever becomes of it. */
  view(): View {
    return { objects: new Map(this.objects), uploads: new Map(this.uploads) }
  }

  /** Stores an object, without anybody asking. */
  put(key: string, bytes: Uint8Array): Stored {
    const stored = store(bytes)
    this.objects.set(key, stored)
    return stored
  }

  /** Does what is asked for; lists tell of `listed`. */
  answer(asked: Asked, listed: View = this): Answer {
    switch (asked.operation) {
      case 'HeadBucket':
        return done(200)
      case 'PutObject':
        return this.#put(asked)
      case 'GetObject':
        return this.#get(asked)
      case 'HeadObject':
        return this.#head(asked)
      case 'DeleteObject':
        this.objects.delete(asked.key)
        return done(204)
      case 'ListObjectsV2':
        return this.#list(asked, listed)
      case 'CreateMultipartUpload':
        return this.#create(asked)
      case 'ListMultipartUploads':
        return this.#listUploads(asked, listed)
      default:
        return this.#inUpload(asked)
    }
  }

  #put({ key, headers, body }: Asked): Answer {
    if (headers['if-none-match'] === '*' && this.objects.has(key)) {
      return refusal(412, 'PreconditionFailed')
    }
    return done(200, { etag: this.put(key, body).etag })
  }

  #get({ key, headers }: Asked): Answer {
    const object = this.objects.get(key)
    if (!object) return refusal(404, 'NoSuchKey')
    const { bytes, etag } = object
    const wanted = headers['if-match']
    if (wanted !== undefined && wanted !== etag) return refusal(412, 'PreconditionFailed')
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? []
    if (first === undefined) return { ...done(200, describe(object)), body: bytes }
    if (Number(first) >= bytes.length) return refusal(416, 'InvalidRange')
    const end = Math.min(Number(last) + 1, bytes.length)
    const body = bytes.subarray(Number(first), end)
    const range = `bytes ${first}-${end - 1}/${bytes.length}`
    const described = { ...describe(object), 'content-range': range }
    return { status: 206, headers: { ...described, 'content-length': String(body.length) }, body }
  }

  #head({ key }: Asked): Answer {
    const object = this.objects.get(key)
    return object ? done(200, describe(object)) : done(404)
  }

  #list({ query }: Asked, { objects }: View): Answer {
    const prefix = query.get('prefix') ?? ''
    const after = query.get('continuation-token') ?? ''
    const keys = [...objects.keys()].filter(key => key.startsWith(prefix) && key > after).sort()
    const page = keys.slice(0, this.#pageSize)
    const isTruncated = keys.length > page.length
    return xml('ListBucketResult', [
      ['Name', this.name],
      ['Prefix', prefix],
      ['KeyCount', page.length],
      ['MaxKeys', this.#pageSize],
      ['IsTruncated', isTruncated],
      ...(isTruncated ? [['NextContinuationToken', page.at(-1)!] as const] : []),
      ...page.map(key => {
        const { bytes, etag, modified } = objects.get(key)!
        return [
          'Contents',
          [
            ['Key', key],
            ['LastModified', modified.toISOString()],
            ['ETag', etag],
            ['Size', bytes.length],
          ],
        ] as const
      }),
    ])
  }

  #create({ key }: Asked): Answer {
    const id = randomUUID()
    this.uploads.set(id, { key, initiated: new Date(), parts: new Map() })
    return xml('InitiateMultipartUploadResult', [
      ['Bucket', this.name],
      ['Key', key],
      ['UploadId', id],
    ])
  }

  #listUploads({ query }: Asked, { uploads }: View): Answer {
    const after = (query.get('key-marker') ?? '') + (query.get('upload-id-marker') ?? '')
    const all = [...uploads].map(([id, upload]) => ({ id, ...upload, at: upload.key + id }))
    const rest = all.sort((a, b) => (a.at < b.at ? -1 : 1)).filter(({ at }) => at > after)
    const page = rest.slice(0, this.#pageSize)
    const isTruncated = rest.length > page.length
    const last = page.at(-1)
    return xml('ListMultipartUploadsResult', [
      ['Bucket', this.name],
      ['IsTruncated', isTruncated],
      ...(isTruncated && last
        ? ([
            ['NextKeyMarker', last.key],
            ['NextUploadIdMarker', last.id],
          ] as const)
        : []),
      ...page.map(({ id, key, initiated }) => {
        return [
          'Upload',
          [
            ['Key', key],
            ['UploadId', id],
            ['Initiated', initiated.toISOString()],
          ],
        ] as const
      }),
    ])
  }

  #inUpload(asked: Asked): Answer {
    const { operation, key, query, body } = asked
    const id = query.get('uploadId') ?? ''
    const upload = this.uploads.get(id)
    if (upload?.key !== key) return refusal(404, 'NoSuchUpload')
    if (operation === 'UploadPart') {
      const part = store(body)
      upload.parts.set(Number(query.get('partNumber')), part)
      return done(200, { etag: part.etag })
    }
    if (operation === 'ListParts') return this.#listParts(asked, upload)
    if (operation === 'CompleteMultipartUpload') {
      const answer = this.#complete(asked, upload)
      if (answer.status !== 200) return answer
      this.uploads.delete(id)
      return answer
    }
    this.uploads.delete(id)
    return done(204)
  }

  #complete({ key, body }: Asked, { parts }: Unfinished): Answer {
    const named = [...body.toString().matchAll(/<Part>(.*?)<\/Part>/g)].map(([, part]) => ({
      number: Number(/<PartNumber>(\d+)</.exec(part!)?.[1]),
      etag: /<ETag>(.*?)</.exec(part!)?.[1]?.replaceAll('&quot;', '"'),
    }))
    const found = named.map(({ number }) => parts.get(number))
    if (found.length === 0) return refusal(400, 'MalformedXML')
    if (found.some((part, i) => !part || part.etag !== named[i]!.etag)) {
      return refusal(400, 'InvalidPart')
    }
    const pieces = found.map(part => part!.bytes)
    if (pieces.slice(0, -1).some(({ length }) => length < MIN_PART_BYTES)) {
      return refusal(400, 'EntityTooSmall')
    }
    const { etag } = this.put(key, Buffer.concat(pieces))
    return xml('CompleteMultipartUploadResult', [
      ['Bucket', this.name],
      ['Key', key],
      ['ETag', etag],
    ])
  }

  #listParts({ query }: Asked, { parts }: Unfinished): Answer {
    const after = Number(query.get('part-number-marker') ?? 0)
    const rest = [...parts].sort(([a], [b]) => a - b).filter(([number]) => number > after)
    const page = rest.slice(0, this.#pageSize)
    const isTruncated = rest.length > page.length
    return xml('ListPartsResult', [
      ['IsTruncated', isTruncated],
      ...(isTruncated ? [['NextPartNumberMarker', page.at(-1)![0]] as const] : []),
      ...page.map(([number, { bytes, etag }]) => {
        return [
          'Part',
          [
            ['PartNumber', number],
            ['ETag', etag],
            ['Size', bytes.length],
          ],
        ] as const
      }),
    ])
  }
}

/** Which operation a request is. Null for what is none of those. */
export function operationOf(method: string, key: string, query: URLSearchParams): Operation | null {
  const has = (name: string) => query.has(name)
  const isBucket = key === ''
  switch (method) {
    case 'HEAD':
      return isBucket ? 'HeadBucket' : 'HeadObject'
    case 'PUT':
      return has('uploadId') ? 'UploadPart' : 'PutObject'
    case 'POST':
      return has('uploadId') ? 'CompleteMultipartUpload' : 'CreateMultipartUpload'
    case 'DELETE':
      return has('uploadId') ? 'AbortMultipartUpload' : 'DeleteObject'
    case 'GET':
      if (isBucket) return has('uploads') ? 'ListMultipartUploads' : 'ListObjectsV2'
      return has('uploadId') ? 'ListParts' : 'GetObject'
    default:
      return null
  }
}

/** An error as S3 writes it. */
export function refusal(
  status: number,
  code: string,
  headers: Readonly<Record<string, string>> = {},
): Answer {
  const { headers: described, body } = xml('Error', [
    ['Code', code],
    ['Message', `the fake says ${code}`],
  ])
  return { status, headers: { ...described, ...headers }, body }
}

function store(bytes: Uint8Array): Stored {
  const etag = `"${createHash('md5').update(bytes).digest('hex')}"`
  return { bytes: Buffer.from(bytes), etag, modified: new Date() }
}

function describe({ bytes, etag, modified }: Stored): Record<string, string> {
  return {
    'content-length': String(bytes.length),
    'last-modified': modified.toUTCString(),
    'accept-ranges': 'bytes',
    etag,
  }
}

function done(status: number, headers: Record<string, string> = {}): Answer {
  const length = status === 204 ? {} : { 'content-length': '0' }
  return { status, headers: { ...length, ...headers }, body: NOTHING }
}

type Element = readonly [name: string, value: string | number | boolean | readonly Element[]]

function xml(root: string, elements: readonly Element[]): Answer {
  const body = Buffer.from(`<?xml version="1.0" encoding="UTF-8"?>\n${write([root, elements])}`)
  const headers = { 'content-type': 'application/xml', 'content-length': String(body.length) }
  return { status: 200, headers, body }
}

function write([name, value]: Element): string {
  const text = Array.isArray(value) ? value.map(write).join('') : escapeXml(String(value))
  return `<${name}>${text}</${name}>`
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
