// One word for each state, and what it means.

/** How a state looks. */
export type Tone = "good" | "busy" | "warn" | "bad" | "quiet";

/** A state in words. */
export interface Word {
  word: string;
  meaning: string;
  tone: Tone;
}

const FOLDER: Record<string, Word> = {
  idle: {
    word: "Idle",
    meaning: "Every change is in a version; new changes are noticed at once.",
    tone: "good",
  },
  scanning: {
    word: "Scanning",
    meaning: "Files are compared with the last version.",
    tone: "busy",
  },
  waiting: {
    word: "Waiting",
    meaning: "Something changes; a version is made when it comes to rest.",
    tone: "busy",
  },
  publishing: { word: "Publishing", meaning: "A new version is being made.", tone: "busy" },
  paused: {
    word: "Paused",
    meaning: "No new versions are made until it is resumed.",
    tone: "quiet",
  },
  alarm: {
    word: "Alarm",
    meaning: "It stands still until somebody has looked: the folder is gone, empty or another one.",
    tone: "bad",
  },
  error: {
    word: "Error",
    meaning: "It cannot go on at the moment, and is tried again.",
    tone: "bad",
  },
};

const SOURCE: Record<string, Word> = {
  starting: { word: "Starting", meaning: "It has not been asked yet.", tone: "busy" },
  idle: { word: "Idle", meaning: "All that it has offered is here.", tone: "good" },
  polling: { word: "Polling", meaning: "It is being asked what is new.", tone: "busy" },
  pulling: { word: "Pulling", meaning: "A new version is on its way here.", tone: "busy" },
  failed: {
    word: "Failed",
    meaning: "It cannot be reached, or something cannot be pulled; it is tried on.",
    tone: "bad",
  },
  refused: {
    word: "Refused",
    meaning:
      "What it offers does not follow what it offered before; nothing is taken until somebody accepts it.",
    tone: "bad",
  },
  disabled: { word: "Disabled", meaning: "The backup server is switched off.", tone: "quiet" },
};

const unknown = (state: string): Word => ({ word: state, meaning: "", tone: "quiet" });

/** The word for the state of a folder. */
export const folderWord = (state: string): Word => FOLDER[state] ?? unknown(state);

/** The word for the state of a source. */
export const sourceWord = (state: string): Word => SOURCE[state] ?? unknown(state);

/** The steps of a backup and of a connection test, in words. */
export const stepWord = (name: string): string =>
  ({
    register: "Make a version",
    connect: "Connect to the backup server",
    trigger: "Tell it to look",
    acknowledge: "Wait for its receipt",
  })[name] ?? name;
