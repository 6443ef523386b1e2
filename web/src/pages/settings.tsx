// The settings, from the program's own list of keys.

import {
  Button,
  Code,
  Group,
  Loader,
  NumberInput,
  Select,
  Stack,
  Switch,
  Text,
  Textarea,
  TextInput,
} from "@mantine/core";
import { useState } from "react";

import type { KeyInfo } from "../api/model";
import { useConfig, useKeys, useSetKey, useStatus } from "../api/queries";
import {
  asText,
  fromText,
  GROUPS,
  inUnits,
  isAdvanced,
  keysOf,
  label,
  valueAt,
  wrong,
} from "../lib/keys";
import { Page, ErrorBox } from "../parts/basics";
import { Section } from "../parts/section";

/** One setting: an input, its validation, and the button that applies it. */
function Field({ info, value }: { info: KeyInfo; value: unknown }) {
  const set = useSetKey();
  const saved = asText(value);
  const [typed, setTyped] = useState<string>();
  const text = typed ?? saved;
  const isChanged = typed !== undefined && typed !== saved;
  const problem = isChanged ? wrong(info, text) : undefined;
  const needsRestart = info.apply === "needs_restart";
  const apply = (next: unknown) =>
    set.mutate({ key: info.path, value: next }, { onSuccess: () => setTyped(undefined) });
  const common = {
    label: label(info.path),
    description: `${info.description}${needsRestart ? " Takes effect after a restart." : ""}`,
    error: problem ?? (set.error ? set.error.message : undefined),
  };
  const onText = (next: string) => {
    set.reset();
    setTyped(next);
  };
  const hint = inUnits(info, text.trim());
  let input: React.ReactNode;
  if (info.type === "bool") {
    input = (
      <Switch
        {...common}
        checked={value === true}
        disabled={set.isPending}
        onChange={(event) => apply(event.currentTarget.checked)}
      />
    );
  } else if (info.choices) {
    input = (
      <Select
        {...common}
        data={info.choices}
        value={text}
        allowDeselect={false}
        onChange={(next) => next && apply(next)}
        styles={{ wrapper: { maxWidth: 320 } }}
      />
    );
  } else if (info.type === "list") {
    input = (
      <Textarea
        {...common}
        description={`${common.description} One per line.`}
        value={text}
        onChange={(event) => onText(event.currentTarget.value)}
        autosize
        minRows={1}
        maxRows={8}
        spellCheck={false}
      />
    );
  } else if (info.type === "number" || info.type === "port") {
    const unit = info.unit === "seconds" ? " s" : info.unit === "milliseconds" ? " ms" : "";
    input = (
      <NumberInput
        {...common}
        value={text}
        onChange={(next) => onText(String(next))}
        suffix={unit}
        allowNegative={false}
        allowDecimal={false}
        styles={{ wrapper: { maxWidth: 320 } }}
        hideControls
      />
    );
  } else {
    input = (
      <TextInput
        {...common}
        value={text}
        onChange={(event) => onText(event.currentTarget.value)}
        spellCheck={false}
      />
    );
  }
  return (
    <form
      aria-label={label(info.path)}
      onSubmit={(event) => {
        event.preventDefault();
        if (isChanged && !problem) apply(fromText(info, text));
      }}
    >
      {input}
      <Group gap="xs" mt={4}>
        {hint && (
          <Text size="xs" c="dimmed">
            {hint}
          </Text>
        )}
        {isChanged && (
          <>
            <Button
              type="submit"
              size="compact-sm"
              variant="filled"
              loading={set.isPending}
              disabled={Boolean(problem)}
            >
              Apply
            </Button>
            <Button
              size="compact-sm"
              onClick={() => {
                set.reset();
                setTyped(undefined);
              }}
            >
              Undo
            </Button>
          </>
        )}
        {!isChanged &&
          info.type !== "bool" &&
          info.default !== undefined &&
          info.default !== null &&
          asText(info.default) !== "" &&
          asText(info.default) !== saved && (
            <Button
              size="compact-xs"
              onClick={() => apply(null)}
              aria-label={`Use the default: ${asText(info.default).replaceAll("\n", ", ")} for ${label(info.path)}`}
            >
              Use the default: {asText(info.default).replaceAll("\n", ", ")}
            </Button>
          )}
        <Text size="xs" role="status" className={set.data?.applied ? "ink-good" : "ink-busy"}>
          {set.isSuccess &&
            !isChanged &&
            (set.data.applied ? "Applied." : "Saved. Takes effect after a restart.")}
        </Text>
      </Group>
    </form>
  );
}

export function Settings() {
  const keys = useKeys();
  const config = useConfig();
  const status = useStatus();
  const [isAll, setAll] = useState(false);
  if (!keys.data || !config.data) {
    return (
      <Page title="Settings">
        {keys.isError || config.isError ? (
          <ErrorBox
            error={keys.error ?? config.error}
            onRetry={() => {
              void keys.refetch();
              void config.refetch();
            }}
          />
        ) : (
          <Loader aria-label="Loading" />
        )}
      </Page>
    );
  }
  const waiting = status.data?.needs_restart ?? [];
  return (
    <Page
      title="Settings"
      lead="Stored in config.toml; your comments are kept. Changes apply immediately unless noted."
      actions={
        <Switch
          label="Show all settings"
          checked={isAll}
          onChange={(event) => setAll(event.currentTarget.checked)}
        />
      }
    >
      {waiting.length > 0 && (
        <div className="band band-busy" role="status">
          <Text fw={600}>Restart needed to apply these settings: {waiting.join(", ")}.</Text>
          <Text size="sm">
            Stop <Code>archivist daemon</Code> and start it again, or restart its service.
          </Text>
        </div>
      )}
      {GROUPS.map(({ section, name, lead }) => {
        const all = keysOf(keys.data, section);
        const shown = all.filter((key) => isAll || !isAdvanced(key));
        return (
          <Section key={section} title={name} lead={lead}>
            <Stack gap="lg">
              {shown.map((key) => (
                <Field key={key.path} info={key} value={valueAt(config.data, key.path)} />
              ))}
            </Stack>
          </Section>
        );
      })}
      <Text size="sm" c="dimmed">
        Version {status.data?.version}. Data: {status.data?.data}
      </Text>
    </Page>
  );
}
