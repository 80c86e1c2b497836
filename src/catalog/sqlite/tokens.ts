import { RegistryError } from '../../errors.ts'
import type { CatalogTokens } from '../catalog.ts'
import { readTokenCursor, writeTokenCursor } from '../pages.ts'
import type { Connection } from './connection.ts'

/** A place after that of every token: years are written with four digits. */
const LAST_TOKEN = { createdAt: '9999', id: '' }

/** The tokens of a catalog. */
export function tokenMethods(connection: Connection): CatalogTokens {
  const { sql } = connection
  return {
    insertToken: token => connection.write(() => void sql.insertToken.run(token)),

    findToken: id => connection.read(() => sql.tokenById.get(id) ?? null),

    listTokens: ({ limit, cursor }) =>
      connection.read(() => {
        const { createdAt, id } = cursor === undefined ? LAST_TOKEN : readTokenCursor(cursor)
        const found = sql.listTokens.all(createdAt, id, limit + 1)
        const tokens = found.slice(0, limit)
        return { tokens, next: found.length > limit ? writeTokenCursor(tokens.at(-1)!) : null }
      }),

    deleteToken: id =>
      connection.write(() => {
        if (sql.deleteToken.run(id).changes > 0) return
        throw new RegistryError('token-not-found', `there is no token ${id}`)
      }),
  }
}
