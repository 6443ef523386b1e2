// Small components that every page uses: names, ids, times, states, errors.

import {
  ActionIcon,
  Button,
  type ButtonProps,
  Code,
  CopyButton,
  Group,
  Stack,
  Text,
  Title,
  Tooltip,
  VisuallyHidden,
} from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { IconAlertTriangle, IconCheck, IconCopy } from "@tabler/icons-react";
import { useMutation } from "@tanstack/react-query";
import { type ReactNode, useEffect, useState } from "react";

import { download } from "../api/client";
import { ago, exact, nameParts, shortId, visibleName, when } from "../lib/format";
import type { Tone, Word } from "../lib/words";

/** A name from a file system, with invisible characters escaped. */
export function FileName({ name }: { name: string }) {
  return (
    <bdi className="name">
      {nameParts(name).map((part, index) =>
        part.isEscaped ? (
          // The pieces of a name never change their order, so the index is a valid key.
          <span key={index} className="escaped" title="invisible character">
            {part.text}
          </span>
        ) : (
          <span key={index}>{part.text}</span>
        ),
      )}
    </bdi>
  );
}

/** Text that contains commands in backticks. */
export function Hint({ text }: { text: string }) {
  return (
    <>
      {text.split("`").map((piece, index) =>
        index % 2 === 1 ? (
          // The pieces of a text never change their order, so the index is a valid key.
          <Code key={index}>{visibleName(piece)}</Code>
        ) : (
          <FileName key={index} name={piece} />
        ),
      )}
    </>
  );
}

/** A button that downloads an address of {@link downloadUrl}. */
export function DownloadButton({
  address,
  name,
  children,
  ...button
}: { address: string; name?: string; children: ReactNode } & ButtonProps) {
  const start = useMutation({
    mutationFn: () => download(address, name),
    onError: (error) =>
      notifications.show({ color: "red.9", message: `The download failed: ${error.message}` }),
  });
  return (
    <Button {...button} onClick={() => start.mutate()} loading={start.isPending}>
      {children}
    </Button>
  );
}

/** A button that copies a text. */
export function Copy({ text, what }: { text: string; what: string }) {
  return (
    <CopyButton value={text} timeout={1500}>
      {({ copied, copy }) => (
        <Tooltip label={copied ? "Copied" : `Copy ${what}`}>
          <ActionIcon
            variant="subtle"
            color="gray"
            size="md"
            onClick={copy}
            aria-label={`Copy ${what}`}
          >
            {copied ? <IconCheck size={16} className="ink-good" /> : <IconCopy size={16} />}
          </ActionIcon>
        </Tooltip>
      )}
    </CopyButton>
  );
}

/** An id, shortened or complete, with a button that copies all of it. */
export function Id({ id, what, whole = false }: { id: string; what: string; whole?: boolean }) {
  return (
    <Group gap={4} wrap="nowrap" component="span">
      <span className="id" title={id} style={whole ? undefined : { whiteSpace: "nowrap" }}>
        {whole ? id : shortId(id)}
      </span>
      <Copy text={id} what={what} />
    </Group>
  );
}

/** Returns the current time, updated every `interval` milliseconds. */
export function useNow(interval = 1000): Date {
  const [now, setNow] = useState(() => new Date());
  useEffect(() => {
    const timer = setInterval(() => setNow(new Date()), interval);
    return () => clearInterval(timer);
  }, [interval]);
  return now;
}

/** A time in local time. Its tooltip shows the exact time. */
export function When({
  at,
  isRelative = false,
}: {
  at?: string | Date | null;
  isRelative?: boolean;
}) {
  const now = useNow(isRelative ? 1000 : 60_000);
  if (at === undefined || at === null) return <>never</>;
  const moment = typeof at === "string" ? new Date(at) : at;
  if (Number.isNaN(moment.getTime())) return <>unknown</>;
  return (
    <time dateTime={moment.toISOString()} title={exact(moment)}>
      {isRelative ? ago(moment, now) : when(moment, now)}
    </time>
  );
}

/** A state in one word. Its tooltip explains the word. */
export function State({ word, detail }: { word: Word; detail?: string | null }) {
  const meaning = visibleName([word.meaning, detail].filter(Boolean).join(" "));
  const inner = (
    <>
      <span className={`dot tone-${word.tone}`} aria-hidden />
      {word.word}
    </>
  );
  if (!meaning) return <span className="state">{inner}</span>;
  return (
    <Tooltip label={meaning}>
      <button type="button" className="state" aria-label={`${word.word}: ${meaning}`}>
        {inner}
      </button>
    </Tooltip>
  );
}

/** A text with a coloured dot. */
export function Dot({ tone, children }: { tone: Tone; children: ReactNode }) {
  return (
    <Group gap={8} wrap="nowrap" align="baseline">
      <span className={`dot tone-${tone}`} aria-hidden />
      <span>{children}</span>
    </Group>
  );
}

/** An error message. It stays until it is resolved or dismissed, and can be copied. */
export function ErrorBox({
  error,
  onRetry,
  onClose,
}: {
  error: unknown;
  onRetry?: () => void;
  onClose?: () => void;
}) {
  if (!error) return null;
  const message =
    error instanceof Error
      ? error.message
      : typeof error === "string"
        ? error
        : JSON.stringify(error);
  return (
    <div className="band band-bad" role="alert">
      <Group gap="sm" wrap="nowrap" align="flex-start">
        <IconAlertTriangle size={20} className="ink-bad" aria-hidden />
        <div style={{ flex: 1, minWidth: 0 }}>
          <Text style={{ overflowWrap: "anywhere" }}>
            <FileName name={message} />
          </Text>
          {(onRetry || onClose) && (
            <Group gap="xs" mt="xs">
              {onRetry && (
                <Button size="xs" onClick={onRetry}>
                  Try again
                </Button>
              )}
              {onClose && (
                <Button size="xs" onClick={onClose}>
                  Dismiss
                </Button>
              )}
            </Group>
          )}
        </div>
        <Copy text={message} what="the message" />
      </Group>
    </div>
  );
}

/** Invisible text that a screen reader reads out when it changes. */
export function Announce({ text }: { text: string }) {
  return <VisuallyHidden role="status">{text}</VisuallyHidden>;
}

/** The frame of a page: title, lead, actions and content. */
export function Page({
  title,
  lead,
  actions,
  children,
}: {
  title: string;
  lead?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
}) {
  useEffect(() => {
    document.title = `${title} – Archivist`;
  }, [title]);
  return (
    <Stack gap="lg">
      <Group justify="space-between" align="flex-end" gap="sm">
        <div>
          <Title order={1} size="h2">
            {title}
          </Title>
          {lead && <Text c="dimmed">{lead}</Text>}
        </div>
        {actions && <Group gap="xs">{actions}</Group>}
      </Group>
      {children}
    </Stack>
  );
}

/** A list of names and values. */
export function Facts({ facts }: { facts: [string, ReactNode][] }) {
  return (
    <dl className="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
