// Queries and changes of the pages.

import { keepPreviousData, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";

import { get, patch, post, remove, session, url } from "./client";
import type {
  AddFolder,
  BackupNowReport,
  ConfigChanged,
  Directories,
  ExcludePreview,
  FileVersion,
  Folder,
  Found,
  Job,
  JoinReport,
  JournalEntry,
  KeyInfo,
  ListedEntry,
  LogLine,
  NewSource,
  PairingCode,
  PairingState,
  Peer,
  PruneReport,
  Receipt,
  ReceiptChain,
  RestoreReport,
  RestoreRequest,
  Snapshot,
  Source,
  Status,
  Step,
  TrafficDay,
} from "./model";
import type { Limits } from "../lib/patterns";
import { isLive } from "./live";

const part = encodeURIComponent;

export const useSession = () =>
  useQuery({ queryKey: ["session"], queryFn: session, staleTime: Number.POSITIVE_INFINITY });

/** The state of the instance. Events update it, and it is polled as well. */
export const useStatus = () =>
  useQuery({
    queryKey: ["status"],
    queryFn: ({ signal }) => get<Status>("/status", { signal, timeout: 10_000 }),
    refetchInterval: () => (isLive() ? 4000 : 1500),
  });

export type Config = Record<string, Record<string, unknown>>;

export const useConfig = () =>
  useQuery({
    queryKey: ["config"],
    queryFn: ({ signal }) => get<Config>("/config", { signal }),
    // The command line and the other pages can change it.
    refetchInterval: 10_000,
  });

/** Reports whether any peer may fetch the folders of this computer. `undefined`
 * until the settings have been loaded. */
export function hasBackupServer(config: Config | undefined): boolean | undefined {
  if (!config) return undefined;
  const peers = config.node?.allowed_peers;
  return Boolean(config.sync?.backup_peer_address) || (Array.isArray(peers) && peers.length > 0);
}

export const useKeys = () =>
  useQuery({
    queryKey: ["keys"],
    queryFn: ({ signal }) => get<KeyInfo[]>("/config/keys", { signal }),
    staleTime: Number.POSITIVE_INFINITY,
  });

export const useSnapshots = (remote: boolean, enabled = true) =>
  useQuery({
    queryKey: ["snapshots", remote],
    queryFn: ({ signal }) =>
      get<Snapshot[]>(url("/snapshots", { from_backup_server: remote }), { signal }),
    enabled,
    staleTime: remote ? 30_000 : 5000,
  });

/** The chains of receipts for the folders of this computer, without the receipts. */
export const useReceiptChains = () =>
  useQuery({
    queryKey: ["receipts"],
    queryFn: ({ signal }) => get<ReceiptChain[]>("/receipts", { signal }),
    refetchInterval: 10_000,
  });

/** All receipts. The server verifies every signature for this, so the list is requested
 * again only if the number of receipts, `total`, changes. */
export const useReceipts = (total: number) =>
  useQuery({
    queryKey: ["receipts", total],
    queryFn: ({ signal }) => get<Receipt[]>("/receipts/export", { signal, timeout: 120_000 }),
    staleTime: Number.POSITIVE_INFINITY,
    placeholderData: keepPreviousData,
  });

/** Number of entries per request. */
export const PAGE = 500;

export interface Place {
  snapshot: string;
  path: string;
  pathBase64?: string | null;
  remote: boolean;
}

const placeQuery = (place: Place) => ({
  path: place.path,
  path_base64: place.pathBase64,
  from_backup_server: place.remote,
});

export const entriesPage = (place: Place, after: ListedEntry | undefined, signal?: AbortSignal) =>
  get<ListedEntry[]>(
    url(`/snapshots/${part(place.snapshot)}/entries`, {
      ...placeQuery(place),
      after: after?.path,
      after_base64: after?.path_base64,
      limit: PAGE,
    }),
    { signal, timeout: 60_000 },
  );

export const useSearch = (place: Place, text: string) =>
  useQuery({
    queryKey: ["search", place, text],
    queryFn: ({ signal }) =>
      get<Found>(url(`/snapshots/${part(place.snapshot)}/search`, { ...placeQuery(place), text }), {
        signal,
        timeout: 60_000,
      }),
    enabled: text.length > 0,
    placeholderData: keepPreviousData,
  });

export const useVersions = (place: Place, source: string, folder: string, enabled: boolean) =>
  useQuery({
    queryKey: ["versions", source, folder, place],
    queryFn: ({ signal }) =>
      get<FileVersion[]>(url("/file-versions", { ...placeQuery(place), source, folder }), {
        signal,
        timeout: 60_000,
      }),
    enabled,
  });

export const useRestores = () =>
  useQuery({
    queryKey: ["restores"],
    queryFn: ({ signal }) => get<RestoreReport[]>("/restores", { signal }),
    refetchInterval: (query) =>
      query.state.data?.some((one) => one.state === "running") ? 500 : 10_000,
  });

export const useJobs = () =>
  useQuery({
    queryKey: ["jobs"],
    queryFn: ({ signal }) => get<Job[]>("/jobs", { signal }),
    refetchInterval: (query) =>
      query.state.data?.some((one) => one.state === "running") ? 500 : 10_000,
  });

export const usePeers = () =>
  useQuery({
    queryKey: ["peers"],
    queryFn: ({ signal }) => get<Peer[]>("/peers", { signal }),
    refetchInterval: 3000,
  });

export const usePairing = (isWatched: boolean) =>
  useQuery({
    queryKey: ["pairing"],
    queryFn: ({ signal }) => get<PairingState>("/pairing", { signal }),
    refetchInterval: isWatched ? 1000 : false,
  });

export const useDirectories = (path: string, enabled: boolean) =>
  useQuery({
    queryKey: ["directories", path],
    queryFn: ({ signal }) => get<Directories>(url("/directories", { path }), { signal }),
    enabled,
    placeholderData: keepPreviousData,
    retry: false,
  });

export const usePreview = (path: string, exclude: string[], enabled: boolean) =>
  useQuery({
    queryKey: ["preview", path, exclude],
    queryFn: ({ signal }) =>
      post<ExcludePreview>("/exclude-preview", { path, exclude }, { signal, timeout: 30_000 }),
    enabled,
    placeholderData: keepPreviousData,
    retry: false,
  });

export const useFolderErrors = (id: string, enabled: boolean) =>
  useQuery({
    queryKey: ["folder-errors", id],
    queryFn: ({ signal }) => get<Folder["errors"]>(`/folders/${part(id)}/errors`, { signal }),
    enabled,
    refetchInterval: 5000,
  });

export const useJournal = () =>
  useQuery({
    queryKey: ["journal"],
    queryFn: ({ signal }) => get<JournalEntry[]>("/journal", { signal }),
    refetchInterval: 3000,
  });

export const useTraffic = (enabled: boolean) =>
  useQuery({
    queryKey: ["traffic"],
    queryFn: ({ signal }) => get<TrafficDay[]>("/traffic", { signal }),
    enabled,
    refetchInterval: 60_000,
  });

export const useLogs = (enabled: boolean) =>
  useQuery({
    queryKey: ["logs"],
    queryFn: ({ signal }) => get<LogLine[]>("/logs", { signal }),
    enabled,
    refetchInterval: enabled ? 2000 : false,
  });

/** A request that changes something. When it ends, the queries named in `touched` are reloaded. */
function useChange<A, R>(change: (argument: A) => Promise<R>, ...touched: string[]) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: change,
    onSettled: () =>
      Promise.all(
        [...touched, "status"].map((key) => client.invalidateQueries({ queryKey: [key] })),
      ),
  });
}

export const useAddFolder = () =>
  useChange((folder: AddFolder) => post<Folder>("/folders", folder), "config", "journal");
export const useEditFolder = () =>
  useChange(
    ({ id, ...update }: { id: string; name?: string; exclude?: string[] } & Partial<Limits>) =>
      patch<Folder>(`/folders/${part(id)}`, update),
    "config",
  );
export const useRemoveFolder = () =>
  useChange((id: string) => remove<void>(`/folders/${part(id)}`), "config");
export const usePauseFolder = () =>
  useChange(
    ({ id, pause }: { id: string; pause: boolean }) =>
      post<Folder>(`/folders/${part(id)}/${pause ? "pause" : "resume"}`),
    "config",
  );
export const useConfirmFolder = () =>
  useChange((id: string) => post<Folder>(`/folders/${part(id)}/confirm`));
export const useBackupNow = () =>
  useChange((folder: string | undefined) =>
    post<BackupNowReport>("/backup-now", { folder }, { timeout: 600_000 }),
  );
export const useOpenPairing = () => useChange(() => post<PairingCode>("/pairing"), "pairing");
export const useJoin = () =>
  useChange(
    (code: string) => post<JoinReport>("/pairing/join", { code }, { timeout: 120_000 }),
    "config",
    "peers",
  );
export const useRestore = () =>
  useChange(
    (request: RestoreRequest) => post<RestoreReport>("/restores", request, { timeout: 120_000 }),
    "restores",
  );
export const useCancelRestore = () =>
  useChange((id: number) => remove<RestoreReport>(`/restores/${id}`), "restores");
export const useVerify = () =>
  useChange((request: { full: boolean; repair: boolean }) => post<Job>("/verify", request), "jobs");
export const usePrune = () =>
  useChange(
    (dry_run: boolean) => post<PruneReport>("/prune", { dry_run }, { timeout: 600_000 }),
    "snapshots",
  );
export const usePoll = () =>
  useChange((name: string | undefined) =>
    post<void>(name ? `/sources/${part(name)}/poll` : "/poll"),
  );
export const useAccept = () =>
  useChange((name: string) => post<Source>(`/sources/${part(name)}/accept`));
export const useAddSource = () =>
  useChange((source: NewSource) => post<Source>("/sources", source), "config");
export const useRemoveSource = () =>
  useChange((name: string) => remove<void>(`/sources/${part(name)}`), "config");
export const useConnect = () =>
  useChange((address: string) => post<Peer>("/connect", { address }, { timeout: 60_000 }), "peers");
export const useTest = () =>
  useChange(
    (source: string | undefined) =>
      post<Step[]>("/connection-test", { source }, { timeout: 90_000 }),
    "peers",
  );
export const useSetKey = () =>
  useChange(
    ({ key, value }: { key: string; value: unknown }) =>
      post<ConfigChanged>("/config", { key, value }),
    "config",
  );
