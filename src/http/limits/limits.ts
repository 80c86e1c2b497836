/** How much may be under way at once. */
export interface Limits {
  readonly uploads: number
  readonly downloads: number
  /** Requests that one token, or without tokens one address, may make in a minute; 0 for any number. */
  readonly requestsPerMinute: number
  /** Resident memory beyond which nothing new is taken on; 0 for any. */
  readonly rssBytes: number
}
