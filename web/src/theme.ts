// Colours with enough contrast for WCAG AA in both themes.

import { type CSSVariablesResolver, createTheme } from "@mantine/core";

export const theme = createTheme({
  primaryColor: "blue",
  primaryShade: { light: 9, dark: 8 },
  defaultRadius: "md",
  fontFamily: "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
  fontFamilyMonospace: "ui-monospace, 'SFMono-Regular', Menlo, 'DejaVu Sans Mono', monospace",
  cursorType: "pointer",
  components: {
    Button: { defaultProps: { variant: "default" } },
    Modal: {
      defaultProps: {
        centered: true,
        size: "lg",
        closeButtonProps: { "aria-label": "Close" },
        styles: { title: { fontWeight: 700, fontSize: "1.1rem" } },
      },
    },
    Tooltip: {
      defaultProps: {
        multiline: true,
        maw: 340,
        withArrow: true,
        events: { hover: true, focus: true, touch: true },
      },
    },
    Alert: { defaultProps: { variant: "default" } },
    Progress: { defaultProps: { size: "md" } },
  },
});

export const resolver: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    "--mantine-color-dimmed": "#495057",
    "--mantine-color-placeholder": "#5f666d",
    "--mantine-color-anchor": "#1864ab",
    "--mantine-color-error": "#b42318",
    "--tone-good": "#1f7a33",
    "--tone-busy": "#1864ab",
    "--tone-warn": "#8a5300",
    "--tone-bad": "#b42318",
    "--tone-quiet": "#5f666d",
    "--band-good": "#e9f7ec",
    "--band-busy": "#e7f1fb",
    "--band-bad": "#fdecea",
    "--band-none": "#f1f3f5",
  },
  dark: {
    "--mantine-color-dimmed": "#b4b8bd",
    "--mantine-color-placeholder": "#9aa0a6",
    "--mantine-color-anchor": "#74c0fc",
    "--mantine-color-error": "#ff9b94",
    "--tone-good": "#69db7c",
    "--tone-busy": "#74c0fc",
    "--tone-warn": "#ffc078",
    "--tone-bad": "#ff9b94",
    "--tone-quiet": "#adb5bd",
    "--band-good": "#17331d",
    "--band-busy": "#14283c",
    "--band-bad": "#41201d",
    "--band-none": "#2b2b2b",
  },
});
