import { randomBytes } from 'node:crypto'
import { open } from 'node:fs/promises'
import { CliError } from '../failure.ts'
import type { Body } from './http.ts'

/** A file of an upload. */
export interface FormFile {
  /** Field of the form: `file` or `delta`. */
  readonly field: string
  /** Its path on disk. */
  readonly source: string
  /** Its path in the model. */
  readonly path: string
  /** Bytes. */
  readonly size: number
}

const READ_BYTES = 1024 * 1024

/**
 * A `multipart/form-data` body: the fields, then the files, streamed from disk. Calls `sent` for each chunk of a file. Its chunks
 * reject with CliError `file-changed` for a file that has become shorter.
 */
export function multipart(
  fields: readonly (readonly [name: string, value: string])[],
  files: readonly FormFile[],
  sent: (bytes: number) => void,
): Body {
  const boundary = `wdelta-${randomBytes(16).toString('hex')}`
  const head = Buffer.from(
    fields.map(([name, value]) => `${disposition(boundary, name)}\r\n\r\n${value}\r\n`).join(''),
  )
  const parts = files.map(file => {
    const name = `${disposition(boundary, file.field)}; filename="${quoted(file.path)}"`
    return { file, head: Buffer.from(`${name}\r\nContent-Type: application/octet-stream\r\n\r\n`) }
  })
  const end = Buffer.from(`--${boundary}--\r\n`)
  const length = parts.reduce(
    (sum, part) => sum + part.head.length + part.file.size + LINE_END.length,
    head.length + end.length,
  )
  const chunks = async function* () {
    yield head
    for (const part of parts) {
      yield part.head
      for await (const chunk of readFile(part.file)) {
        yield chunk
        sent(chunk.length)
      }
      yield LINE_END
    }
    yield end
  }
  return { type: `multipart/form-data; boundary=${boundary}`, length, chunks: chunks() }
}

const LINE_END = Buffer.from('\r\n')

function disposition(boundary: string, name: string): string {
  return `--${boundary}\r\nContent-Disposition: form-data; name="${quoted(name)}"`
}

/** Escapes a name as browsers do. Source: HTML Living Standard, "multipart/form-data encoding algorithm". */
function quoted(text: string): string {
  return text.replaceAll('\r', '%0D').replaceAll('\n', '%0A').replaceAll('"', '%22')
}

async function* readFile({ source, size }: FormFile): AsyncGenerator<Uint8Array> {
  await using handle = await open(source)
  let position = 0
  while (position < size) {
    const bytes = Buffer.allocUnsafeSlow(Math.min(READ_BYTES, size - position))
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, position)
    if (bytesRead === 0) {
      throw new CliError(
        'file-changed',
        `${source}: expected ${size} bytes, it ends at ${position}`,
      )
    }
    position += bytesRead
    yield bytes.subarray(0, bytesRead)
  }
}
