import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** A request as the fake registry saw it. */
export interface Seen {
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
}

export type Handler = (seen: Seen, response: ServerResponse) => void

/** A registry that answers as a test tells it; `seen` lists what came. It is closed with the test. */
export async function openFakeRegistry(
  t: { teardown(fn: () => unknown): unknown },
  handler: Handler,
): Promise<{ url: string; seen: Seen[] }> {
  const seen: Seen[] = []
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const { method, url, headers } = request
    const one = { method: method!, url: url!, headers, body: Buffer.concat(chunks) }
    seen.push(one)
    handler(one, response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen }
}

/** Answers with JSON. */
export function json(response: ServerResponse, status: number, value: unknown): void {
  const type = status < 400 ? 'application/json' : 'application/problem+json'
  response.writeHead(status, { 'content-type': type }).end(JSON.stringify(value))
}

export interface FormPart {
  readonly name: string
  readonly filename: string | null
  readonly body: Buffer
}

/** The parts of a multipart body, by the rules of RFC 7578. */
export async function formParts({ headers, body }: Seen): Promise<FormPart[]> {
  const type = headers['content-type']!
  const form = await new Response(new Uint8Array(body), {
    headers: { 'content-type': type },
  }).formData()
  const parts: FormPart[] = []
  for (const [name, value] of form as unknown as Iterable<[string, string | File]>) {
    if (typeof value === 'string') {
      parts.push({ name, filename: null, body: Buffer.from(value) })
    } else {
      parts.push({ name, filename: value.name, body: Buffer.from(await value.arrayBuffer()) })
    }
  }
  return parts
}
