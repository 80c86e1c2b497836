import { choice, command, required, UsageError } from '../command.ts'
import { callPages, openClient, REGISTRY_HELP, REGISTRY_OPTIONS } from '../remote/client.ts'
import { say, table } from '../terminal.ts'

interface Token {
  readonly id: string
  readonly name: string
  readonly scope: string
  readonly createdAt: string
  readonly expiresAt: string | null
}

/** `wdelta token`: manages the tokens of a registry. */
export const token = command({
  usage:
    'token create NAME --scope read|write|admin [--expires-at TIME] | list [--json] | revoke ID',
  help: `Manages the tokens of a registry; needs an admin token.

  create NAME      prints the new token, which cannot be shown again
  --scope S        read, write (may also publish) or admin (may also delete, sweep and manage tokens)
  --expires-at T   an ISO 8601 time; never by default
  list             lists tokens, without their secrets
  revoke ID        makes the registry refuse the token from now on
  --json           print JSON, which has also the id of a new token${REGISTRY_HELP}`,
  options: {
    ...REGISTRY_OPTIONS,
    name: { type: 'string' },
    scope: { type: 'string' },
    'expires-at': { type: 'string' },
    json: { type: 'boolean', default: false },
  },
  positionals: [1, 2],
  run: async (values, [action, subject], signal) => {
    const client = openClient(values)
    switch (action) {
      case 'create': {
        const scope = choice('scope', required('scope', values.scope), ['read', 'write', 'admin'])
        const name = required('name', subject ?? values.name)
        const expiresAt = values['expires-at']
        const body = { name, scope, ...(expiresAt !== undefined && { expiresAt }) }
        const created = await client.call<Token & { token: string }>(
          'POST',
          '/tokens',
          signal,
          body,
        )
        await say(values.json ? JSON.stringify(created, null, 1) : created.token)
        return
      }
      case 'list': {
        const list = { path: '/tokens', key: 'tokens' }
        const tokens = await callPages<Token>(client, list, signal)
        await say(values.json ? JSON.stringify(tokens, null, 1) : table(rows(tokens)))
        return
      }
      case 'revoke': {
        if (subject === undefined) throw new UsageError('expected: wdelta token revoke ID')
        await client.call('DELETE', `/tokens/${encodeURIComponent(subject)}`, signal)
        return
      }
      default:
        throw new UsageError(`expected token create, list or revoke, got ${action}`)
    }
  },
})

function rows(tokens: readonly Token[]): string[][] {
  return [
    ['ID', 'NAME', 'SCOPE', 'CREATED', 'EXPIRES'],
    ...tokens.map(({ id, name, scope, createdAt, expiresAt }) => {
      return [id, name, scope, createdAt, expiresAt ?? 'never']
    }),
  ]
}
