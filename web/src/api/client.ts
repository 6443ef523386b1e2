// The calls. A change carries the session's cookie and, in a header, what no
// other page can know.

import type { Session } from "./model";

/** An answer that says no, in the program's words. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

/** The program does not answer at all. */
export class Unreachable extends Error {
  constructor() {
    super("Archivist does not answer on this machine");
    this.name = "Unreachable";
  }
}

const BASE = "/api/v1";
/** A call that is not answered within this, in milliseconds, is not answered. */
const TIMEOUT = 30_000;
let csrf: string | undefined;

async function message(response: Response): Promise<string> {
  const text = await response.text().catch(() => "");
  try {
    const body: unknown = JSON.parse(text);
    if (body && typeof body === "object" && "message" in body) return String(body.message);
  } catch {
    // Not JSON: the text itself says it.
  }
  return text.slice(0, 500) || `${response.status} ${response.statusText}`;
}

interface Options {
  body?: unknown;
  signal?: AbortSignal;
  /** Instead of 30 s, in milliseconds. */
  timeout?: number;
}

async function call<T>(method: string, path: string, options: Options = {}): Promise<T> {
  const headers: Record<string, string> = { Accept: "application/json" };
  if (options.body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrf) headers["X-CSRF-Token"] = csrf;
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

/** Whether this browser is signed in; what changes need is kept for them. */
export async function session(): Promise<Session> {
  const found = await get<Session>("/ui/session");
  csrf = found.csrf ?? undefined;
  return found;
}

/** Signs in with the content of the token file. */
export async function signIn(token: string): Promise<void> {
  const response = await fetch(`${BASE}/ui/session`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token.trim()}` },
    credentials: "same-origin",
  }).catch(() => {
    throw new Unreachable();
  });
  if (response.status === 401) throw new ApiError(401, "That is not the token of this instance.");
  if (!response.ok) throw new ApiError(response.status, await message(response));
}

/** Ends the session of this browser. */
export async function signOut(): Promise<void> {
  await remove<undefined>("/ui/session");
  csrf = undefined;
}

/** A path with parameters; those without a value are left out. */
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

/** The address of something that the browser downloads by itself. */
export const downloadUrl = (
  path: string,
  parameters: Record<string, string | number | boolean | null | undefined>,
) => BASE + url(path, parameters);
