// Live state: server-sent events update the cached answers. While no events
// arrive, the pages poll more often instead.

import { type QueryClient, useQueryClient } from "@tanstack/react-query";
// The browser's own EventSource sends no header, so no proof of the session.
import { EventSource } from "eventsource";
import { useEffect, useSyncExternalStore } from "react";

import { sessionHeaders } from "./client";
import type { Folder, Source, Status } from "./model";

let live = false;
const listeners = new Set<() => void>();

function setLive(value: boolean): void {
  if (live === value) return;
  live = value;
  for (const listener of listeners) listener();
}

/** Reports whether the event stream is open. */
export const isLive = () => live;

export const useIsLive = () =>
  useSyncExternalStore((listener) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, isLive);

/** Returns the status with one folder replaced. */
export function withFolder(status: Status, folder: Folder): Status {
  return { ...status, folders: status.folders.map((one) => (one.id === folder.id ? folder : one)) };
}

/** Returns the status with one source replaced. */
export function withSource(status: Status, source: Source): Status {
  return {
    ...status,
    sources: status.sources.map((one) => (one.name === source.name ? source : one)),
  };
}

/** First and longest wait before the stream is reopened, in milliseconds. */
const WAIT_MIN = 500;
const WAIT_MAX = 5000;

/** Listens for events until the returned function is called. */
export function listen(client: QueryClient): () => void {
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let wait = WAIT_MIN;
  let isOver = false;

  const change = (edit: (status: Status) => Status) =>
    client.setQueryData<Status>(["status"], (status) => status && edit(status));
  const again = (...keys: string[]) => {
    for (const key of keys) void client.invalidateQueries({ queryKey: [key] });
  };

  function open(): void {
    source = new EventSource(new URL("/api/v1/events", window.location.href), {
      fetch: (address, options) =>
        fetch(address, { ...options, headers: { ...options.headers, ...sessionHeaders() } }),
    });
    source.onopen = () => {
      wait = WAIT_MIN;
      setLive(true);
      // Events that came while the stream was closed are lost.
      void client.invalidateQueries();
    };
    source.onerror = () => {
      // The browser does not reopen the stream after some errors.
      source?.close();
      setLive(false);
      again("status");
      if (isOver) return;
      timer = setTimeout(open, wait);
      wait = Math.min(wait * 2, WAIT_MAX);
    };
    const on = <T>(name: string, handle: (data: T) => void) =>
      source?.addEventListener(name, (event: MessageEvent<string>) => {
        try {
          handle(JSON.parse(event.data) as T);
        } catch {
          again("status");
        }
      });
    on<Folder>("folder", (folder) => change((status) => withFolder(status, folder)));
    on<Source>("source", (one) => change((status) => withSource(status, one)));
    on("source-removed", () => again("status", "config"));
    on("snapshot", () => again("snapshots", "status", "journal"));
    on("reload", () => void client.invalidateQueries());
  }

  open();
  return () => {
    isOver = true;
    clearTimeout(timer);
    source?.close();
    setLive(false);
  };
}

/** Reloads the list of snapshots when the backup server has confirmed a new one. */
export function useReceipts(status: Status | undefined): void {
  const client = useQueryClient();
  const receipts = status?.folders
    .map((folder) => `${folder.id} ${folder.backed_up_sequence}`)
    .join();
  useEffect(() => {
    if (receipts !== undefined) void client.invalidateQueries({ queryKey: ["snapshots"] });
  }, [client, receipts]);
}

/** Listens for events while the page is shown. */
export function useLive(): void {
  const client = useQueryClient();
  useEffect(() => listen(client), [client]);
}
