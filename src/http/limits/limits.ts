/** How much the registry takes on. */
export interface Limits {
  /** Most uploads under way. */
  readonly uploads: number
  /** Most downloads under way, short ones and long ones each. */
  readonly downloads: number
  /** Most requests a minute of one token, or without tokens of one address; 0 for no limit. */
  readonly requestsPerMinute: number
  /** Resident memory, in bytes, above which nothing new is taken on; 0 for no limit. */
  readonly rssBytes: number
}
