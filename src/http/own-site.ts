import { BlockList, isIPv4, isIPv6 } from 'node:net'
import { hostname } from 'node:os'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { RegistryError } from '../errors.ts'

/** How a registry without tokens is reached. */
export interface Site {
  /** What it listens on: a name or an address. */
  readonly host: string
  /** True if that can be reached from this machine only. */
  readonly isLoopback: boolean
  /** `PUBLIC_URL`: what clients are told, behind a proxy or in a network with names of its own. */
  readonly publicUrl?: string | undefined
}

/** Probes name any host, and what they are told is no secret. */
const OPEN_ROUTES = new Set(['/healthz', '/readyz'])
/** Pages that a link on another site may lead to: nothing of the registry's is in them. */
const PAGE_ROUTE = /^\/(docs(\/.*)?)?$/
/** What a browser says of requests that no other site had a part in. */
const OWN_FETCHES: readonly unknown[] = [undefined, 'same-origin', 'none']

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8)
LOOPBACK.addAddress('::1', 'ipv6')

/**
 * Refuses requests that a web page of another site had a browser send: where nobody is asked for a token, whoever can reach the registry is
 * let in, and the browsers on its machine and in its network can. Throws RegistryError `cross-site`, or `bad-request` for no `Host` at all.
 *
 * A page reaches the registry in two ways. Under the page's own name, once its DNS server says that this is the registry's address: then `Host` is
 * that name. Or under the registry's name: then `Origin` or `Sec-Fetch-Site` tells, which pages cannot forge. Ports are not compared with the one that is
 * listened on, since tunnels and containers change them, and no DNS server can.
 */
export function refuseOtherSites(app: FastifyInstance, site: Site): void {
  const isOwn = ownHosts(site)
  const publicOrigin = site.publicUrl === undefined ? null : new URL(site.publicUrl).origin
  app.addHook('onRequest', async request => {
    if (OPEN_ROUTES.has(request.routeOptions.url ?? '')) return
    const { host, origin } = request.headers
    if (host === undefined) throw new RegistryError('bad-request', 'expected a Host header')
    for (const named of [host, ...targetHost(request)]) {
      if (!isOwn(named)) throw otherHost(named)
    }
    if (origin !== undefined && origin !== publicOrigin && !isSameOrigin(origin, host)) {
      throw new RegistryError(
        'cross-site',
        `expected no Origin but this registry's own, got ${origin}`,
      )
    }
    const from = request.headers['sec-fetch-site']
    if (OWN_FETCHES.includes(from) || isVisit(request)) return
    throw new RegistryError(
      'cross-site',
      `expected no request from another site's page, got Sec-Fetch-Site: ${from}`,
    )
  })
}

/** Refuses a request with several `Host` headers: Node drops all but the first, others the last, and a check of one would be none. Throws `bad-request`. */
export function refuseTwoHosts(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ raw: { rawHeaders } }) => {
    const hosts = rawHeaders.filter((name, i) => i % 2 === 0 && name.toLowerCase() === 'host')
    if (hosts.length <= 1) return
    throw new RegistryError('bad-request', `expected one Host header, got ${hosts.length}`)
  })
}

/** Tells whether a `Host` is one of the registry's. */
function ownHosts({ host, isLoopback, publicUrl }: Site): (host: string) => boolean {
  const names = new Set([host.toLowerCase()])
  if (publicUrl !== undefined) names.add(nameOf(new URL(publicUrl).host) ?? '')
  if (!isLoopback) names.add(hostname().toLowerCase())
  return given => {
    const name = nameOf(given)
    if (name === null) return false
    if (names.has(name) || name === 'localhost' || name.endsWith('.localhost')) return true
    const version = isIPv4(name) ? 'ipv4' : isIPv6(name) ? 'ipv6' : null
    // An address is nobody's to answer for, and no public DNS server answers for a name without a dot.
    if (!isLoopback) return version !== null || !name.includes('.')
    return version !== null && LOOPBACK.check(name, version)
  }
}

/** The name or address in a `Host`, in lower case, without port, brackets, zone and the dot of the root; null where it is none. */
function nameOf(host: string): string | null {
  const found = /^(?:\[([\da-f:.]+)(?:%[^\]]*)?\]|([^\s:@/?#[\]\\,]+?)\.?)(?::\d{0,5})?$/i.exec(
    host,
  )
  return (found?.[1] ?? found?.[2])?.toLowerCase() ?? null
}

/** The host of a target like `http://host/path`, which counts for more than the header. */
function targetHost({ raw: { url = '' } }: FastifyRequest): string[] {
  const found = /^[a-z][\w+.-]*:\/\/([^/?#]*)/i.exec(url)
  return found ? [found[1]!] : []
}

/** Whether a page of this origin was loaded from the host that it now asks; a proxy in between may speak TLS. */
function isSameOrigin(origin: string, host: string): boolean {
  if (!/^https?:\/\//.test(origin) || !URL.canParse(origin)) return false
  const page = new URL(origin)
  const asked = `${page.protocol}//${host}`
  return URL.canParse(asked) && new URL(asked).host === page.host
}

/** True for a link that was followed to a page. */
function isVisit({ method, headers, url }: FastifyRequest): boolean {
  return (
    method === 'GET' &&
    headers['sec-fetch-mode'] === 'navigate' &&
    headers['sec-fetch-dest'] === 'document' &&
    PAGE_ROUTE.test(url.replace(/[?#].*$/s, ''))
  )
}

function otherHost(host: string): RegistryError {
  return new RegistryError(
    'cross-site',
    `expected the Host of this registry, got ${JSON.stringify(host)}; if clients reach it under this name, set PUBLIC_URL to the address that they use`,
  )
}
