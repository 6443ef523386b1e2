// API calls. Each request carries the session's cookie and, in a header, a CSRF code
// that no other page can know: the program hands it over once, when the session
// starts, and this browser stores it for this origin only. A download carries no
// header, so it takes a ticket that is valid once.

import type { DownloadLink, Session, SignedIn } from "./model";

/** An error that the program answered, with its message. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

/** The program did not answer. */
export class Unreachable extends Error {
  constructor() {
    super("Archivist on this computer does not answer");
    this.name = "Unreachable";
  }
}

const BASE = "/api/v1";
/** Default time limit of a call, in milliseconds. */
const TIMEOUT = 30_000;
/** Name under which this browser stores the CSRF code. */
const CODE = "archivist-csrf";

/** Stores the CSRF code from the page's address, and removes it from the address. */
function takeCode(): void {
  const found = /^#csrf=([0-9a-f]+)$/.exec(window.location.hash);
  if (!found?.[1]) return;
  localStorage.setItem(CODE, found[1]);
  const { pathname, search } = window.location;
  window.history.replaceState(window.history.state, "", pathname + search);
}

async function message(response: Response): Promise<string> {
  const text = await response.text().catch(() => "");
  try {
    const body: unknown = JSON.parse(text);
    if (body && typeof body === "object" && "message" in body) return String(body.message);
  } catch {
    // Not JSON: the text is the message.
  }
  return text.slice(0, 500) || `${response.status} ${response.statusText}`;
}

interface Options {
  body?: unknown;
  signal?: AbortSignal;
  /** Time limit in milliseconds. Default: 30 s. */
  timeout?: number;
}

/** The headers that prove the session. */
export function sessionHeaders(): Record<string, string> {
  const code = localStorage.getItem(CODE);
  return code ? { "X-CSRF-Token": code } : {};
}

async function call<T>(method: string, path: string, options: Options = {}): Promise<T> {
  const headers: Record<string, string> = { Accept: "application/json", ...sessionHeaders() };
  if (options.body !== undefined) headers["Content-Type"] = "application/json";
  const limit = AbortSignal.timeout(options.timeout ?? TIMEOUT);
  let response: Response;
  try {
    response = await fetch(BASE + path, {
      method,
      headers,
      body: options.body === undefined ? undefined : JSON.stringify(options.body),
      signal: options.signal ? AbortSignal.any([options.signal, limit]) : limit,
      credentials: "same-origin",
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Unreachable();
  }
  if (!response.ok) throw new ApiError(response.status, await message(response));
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

export const get = <T>(path: string, options?: Options) => call<T>("GET", path, options);
export const post = <T>(path: string, body: unknown = {}, options?: Options) =>
  call<T>("POST", path, { ...options, body });
export const patch = <T>(path: string, body: unknown) => call<T>("PATCH", path, { body });
export const remove = <T>(path: string) => call<T>("DELETE", path);

/** Reports whether this browser is signed in. */
export async function session(): Promise<Session> {
  takeCode();
  return get<Session>("/ui/session");
}

/** Signs in with the contents of the token file. */
export async function signIn(token: string): Promise<void> {
  const response = await fetch(`${BASE}/ui/session`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token.trim()}` },
    credentials: "same-origin",
  }).catch(() => {
    throw new Unreachable();
  });
  if (response.status === 401) throw new ApiError(401, "Wrong token.");
  if (!response.ok) throw new ApiError(response.status, await message(response));
  const signedIn = (await response.json()) as SignedIn;
  localStorage.setItem(CODE, signedIn.csrf);
}

/** Ends the session of this browser. */
export async function signOut(): Promise<void> {
  await remove<undefined>("/ui/session");
  localStorage.removeItem(CODE);
}

/** Builds a path with parameters. Parameters without a value are left out. */
export function url(
  path: string,
  parameters: Record<string, string | number | boolean | null | undefined>,
): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") query.set(name, String(value));
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** Returns the address of a download, for {@link download}. */
export const downloadUrl = (
  path: string,
  parameters: Record<string, string | number | boolean | null | undefined> = {},
) => BASE + url(path, parameters);

/** Lets the browser download an address, with a ticket that is valid once. */
export async function download(address: string, name = ""): Promise<void> {
  const { url } = await post<DownloadLink>("/ui/ticket", { path: address });
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
}
