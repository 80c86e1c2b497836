import { Readable } from 'node:stream'
import { setImmediate } from 'node:timers/promises'
import type { FastifyReply } from 'fastify'

/** Items that become text at once: a fraction of a millisecond's work. */
const PIECE_ITEMS = 256

/**
 * Answers with the JSON of an object: the members of `head`, and then `key` with a list that may have a million items. It is made as the
 * client takes it, so that neither its text is ever held nor the event loop.
 */
export function sendList(
  reply: FastifyReply,
  head: object,
  key: string,
  items: readonly object[],
): FastifyReply {
  const body = Readable.from(textOf(head, key, items))
  return reply.type('application/json; charset=utf-8').send(body)
}

async function* textOf(head: object, key: string, items: readonly object[]) {
  const members = JSON.stringify(head).slice(1, -1)
  yield `{${members}${members && ','}${JSON.stringify(key)}:[`
  for (let i = 0; i < items.length; i += PIECE_ITEMS) {
    const texts = items.slice(i, i + PIECE_ITEMS).map(item => JSON.stringify(item))
    yield `${i > 0 ? ',' : ''}${texts}`
    // A socket that takes all at once would have no other request come in between.
    await setImmediate()
  }
  yield ']}'
}
